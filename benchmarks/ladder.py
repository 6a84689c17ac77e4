"""The ladder: what each change to the agent gains on two small sets, seeds paired, one rung at a time.

python benchmarks/ladder.py --data-dir DATA_DIR --jobs 2 [--rungs NAME ...] [--only-print]
python benchmarks/ladder.py --data-dir DATA_DIR --jobs 2 --finals                the best of them on all sets, new seeds

DATA_DIR as in standing_comparison.py, and for --finals with what REPLAY makes. Every rung is the base with a few words
of config changed: 2,000 gradient steps, width 64, last checkpoint, one target declared before training, 20 episodes.
Runs that are finished are not repeated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import arguments, machine
from standing_comparison import SETS, shown

from envs.scores import estimate, paired_difference

ROOT = Path(__file__).resolve().parent.parent
COMMON = "train.evaluate_every=0 train.checkpoint_every=2000 num_threads=1"  # 2,000 steps are the default
SCREENED, SCREENING_SEEDS = ["hopper demo", "hopper medium"], [0, 1, 2]
REPLAY = "python collect.py env_id=Walker2d-v5 kinds=[learning] train.num_steps=40000 num_steps=60000 out=DATA_DIR"
EVERY_SET = {  # halfcheetah last, which no choice was made on
    **{name: found for name, found in SETS.items() if not name.startswith("halfcheetah")},
    "walker2d replay": ("any", "Walker2d-v5-learning.hdf5", "Walker2d-v5"),  # its target: the best return recorded
    **{name: found for name, found in SETS.items() if name.startswith("halfcheetah")},
}
FINAL_SEEDS = [20, 21, 22]


class Rung(NamedTuple):
    """Words of config on top of the base, and what became of them: kept (the default, or an option), or not."""

    words: str
    outcome: str = ""


BASE, GUIDED = "base", "value guided: critics choose"
DT = "backbone=attention agent.context_length=20 train.batch_size=62 agent.acting_mode=window"
RUNGS: dict[str, Rung] = {
    BASE: Rung("", "the default"),
    # Baselines
    "behaviour cloning": Rung("agent=behavior_cloning", "baseline"),
    "10 % behaviour cloning": Rung("experiment=filtered_bc", "baseline"),
    "attention, windows of 20": Rung(DT, "baseline"),
    "IQL, 10,000 steps of 256 pairs": Rung("experiment=iql", "baseline"),
    "TD3+BC, 10,000 steps of 256 pairs": Rung("experiment=td3_bc", "baseline"),
    **{
        f"{name}, {word} the learning rate": Rung(f"{words} optimizer.learning_rate={rate}", "a baseline's trial")
        for name, words in {
            "behaviour cloning": "agent=behavior_cloning",
            "10 % behaviour cloning": "experiment=filtered_bc",
            "attention, windows of 20": DT,
        }.items()
        for word, rate in (("half", 0.0005), ("twice", 0.002))
    },
    **{
        f"IQL, {weight} times the advantage": Rung(
            f"experiment=iql agent.advantage_weight={weight}", "a baseline's trial"
        )
        for weight in (100, 1000)
    },
    **{f"TD3+BC, eta {eta}": Rung(f"experiment=td3_bc agent.eta={eta}", "a baseline's trial") for eta in (0.5, 1)},
    # What is learnt of an action
    "absolute error": Rung("agent.action_loss=absolute", "an option"),
    "likelihood, with a spread": Rung("agent.action_loss=likelihood", "an option"),
    # What the agent sees
    "not its last action": Rung("agent.previous_action=false", "an option"),
    "no memory": Rung("backbone=mlp", "baseline"),
    "no memory, not its last action": Rung("backbone=mlp agent.previous_action=false"),
    "noise of 0.05 on observations": Rung("agent.observation_noise=0.05"),
    "windows of 20": Rung("agent.context_length=20 train.batch_size=62", "not kept"),
    "windows of 200": Rung("agent.context_length=200 train.batch_size=6"),
    "packed rows of 200, memories to 200": Rung(
        "agent.context_length=200 train.batch_size=6 train.packed=true backbone.mixer.memory_length=200"
    ),
    "interleaved tokens": Rung("agent.token_layout=interleaved"),
    # Which episodes count
    "best half of the episodes": Rung("train.top_fraction=0.5"),
    "best quarter of the episodes": Rung("train.top_fraction=0.25", "not kept"),
    # Architecture
    "causal convolution of 4": Rung("backbone.conv_width=4", "not kept"),
    "width 128": Rung("backbone.hidden_size=128"),
    "memories to 50": Rung("backbone.mixer.memory_length=50"),
    # Training
    "half the learning rate": Rung("optimizer.learning_rate=0.0005"),
    "twice the learning rate": Rung("optimizer.learning_rate=0.002", "not kept"),
    "cosine schedule": Rung("optimizer.schedule=cosine"),
    "dropout 0.2": Rung("backbone.dropout=0.2"),
    "average of 0.999": Rung("optimizer.ema_decay=0.999"),
    "weight decay 0.05": Rung("optimizer.weight_decay=0.05"),
    "return scale 300": Rung("task.return_scale=300", "not kept"),
    "return scale 2,500": Rung("task.return_scale=2500"),
    "4,000 steps, cosine schedule": Rung("train.num_steps=4000 optimizer.schedule=cosine"),
    "attention, half the learning rate, in the base's time": Rung(
        f"{DT} optimizer.learning_rate=0.0005 train.num_steps=1350", "equal time"
    ),
    "IQL, in the base's time": Rung("experiment=iql agent.advantage_weight=100 train.num_steps=2200", "equal time"),
    "TD3+BC, in the base's time": Rung("experiment=td3_bc agent.eta=0.5 train.num_steps=2200", "equal time"),
    "ensemble of 2": Rung("agent.num_members=2", "an option"),
    "ensemble of 4": Rung("agent.num_members=4"),
    # Value guidance
    GUIDED: Rung("agent=value_guided", "the default of `value_guided`"),
    "critics choose, 1 and 1.2": Rung("agent=value_guided agent.candidate_returns=[1.0,1.2]", "not kept"),
    "value guided, eta 0.3": Rung("agent=value_guided agent.eta=0.3 agent.candidate_returns=[1.0]", "not kept"),
    "value guided, eta 1": Rung("agent=value_guided agent.eta=1 agent.candidate_returns=[1.0]", "not kept"),
    "value guided, eta 1, values of the policy": Rung(
        "agent=value_guided agent.eta=1 agent.candidate_returns=[1.0] agent.bootstrap=policy", "not kept"
    ),
    "weighed by advantage, 50": Rung("agent=value_guided agent.candidate_returns=[1.0] agent.advantage_weight=50"),
}


FINALISTS = {  # the base and the baselines as their best trial has them, and the seeds that no choice was made on
    "supervised": (
        FINAL_SEEDS,
        (
            BASE,
            "behaviour cloning, half the learning rate",
            "10 % behaviour cloning",
            "attention, windows of 20, half the learning rate",
        ),
    ),
    "with values": (
        FINAL_SEEDS,
        (
            GUIDED,
            BASE,
            "IQL, 100 times the advantage",
            "IQL, in the base's time",
            "TD3+BC, eta 0.5",
            "TD3+BC, in the base's time",
        ),
    ),
}


class Cell(NamedTuple):
    """One run."""

    set_name: str
    rung: str
    seed: int

    def run_dir(self, runs: Path) -> Path:
        name = "".join(letter if letter.isalnum() else "_" for letter in self.rung)
        return runs / self.set_name.replace(" ", "_") / f"{name}-seed{self.seed}"

    def words(self, data_dir: str) -> list[str]:
        task, file, env_id = EVERY_SET[self.set_name]
        data = f"dataset={data_dir}/{file} env_id={env_id}" if file else ""
        return f"task={task} {data} {COMMON} seed={self.seed} {RUNGS[self.rung].words}".split()


def main() -> None:
    chosen = arguments(
        __doc__,
        data_dir="",
        runs="runs/ladder",
        rungs=list(RUNGS),
        sets=[""],
        seeds=[-1],
        finals=False,
        jobs=1,
        only_print=False,
    )
    if chosen.data_dir and not Path(chosen.data_dir).is_dir():
        raise SystemExit(f"--data-dir: there is no folder at {chosen.data_dir}")
    runs = Path(chosen.runs).resolve()
    seeds = chosen.seeds if chosen.seeds != [-1] else SCREENING_SEEDS
    sets = chosen.sets if chosen.sets != [""] else SCREENED
    sets = [name for name in sets if chosen.data_dir or EVERY_SET[name][1] is None]
    cells = [Cell(name, rung, seed) for name in sets for rung in chosen.rungs for seed in seeds]
    if chosen.finals:
        cells = [
            Cell(name, rung, seed)
            for seeds, rungs in FINALISTS.values()
            for seed in seeds
            for name in EVERY_SET
            for rung in rungs
        ]
    if not chosen.only_print:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            for line in pool.map(lambda cell: train(cell, chosen.data_dir, runs), cells):
                print(line, flush=True)
    page = write_page(SCREENED, SCREENING_SEEDS, runs)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "ladder.md").write_text(page, encoding="utf-8")
    print(f"written: {chosen.out / 'ladder.md'}")


def train(cell: Cell, data_dir: str, runs: Path) -> str:
    path = cell.run_dir(runs)
    if (path / "results.json").is_file():
        return f"{path}: finished before"
    command = [sys.executable, "train_offline.py", *cell.words(data_dir), f"run_dir={path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return f"{path}: {'finished' if done.returncode == 0 else f'failed: {done.stderr.strip().splitlines()[-1:]}'}"


def write_page(sets: Sequence[str], seeds: Sequence[int], runs: Path) -> str:
    headings = ["rung", *sets, "minus base, paired", "training, s", "acting, us", "outcome", "words of config"]
    tried = sum(1 for rung in RUNGS if not np.isnan(matrix(rung, sets, seeds, runs)).all())
    lines = [
        "# The ladder",
        "",
        f"{tried} of {len(RUNGS)} rungs have been run so far, each against the base on the same seeds "
        f"({', '.join(map(str, seeds))}):",
        "mean normalised score with its 95 % bootstrap interval over seeds, and the mean difference over these sets",
        "paired by seed. 2,000 gradient steps of 1,250 environment steps at width 64, last checkpoint, one target",
        "declared before training, 20 episodes a run. Three seeds make wide intervals: one that holds zero shows no",
        "gain. Acting is the policy's share of a step of ten environments. Base: the defaults.",
        "",
        f"`python benchmarks/ladder.py --data-dir DATA_DIR`, one run: `python train_offline.py "
        f"{' '.join(Cell('hopper medium', BASE, 0).words('DATA_DIR'))}`",
        "",
        machine(1),
        "",
        *table(headings, rows(sets, seeds, runs)),
        "",
        "## Every run",
        "",
        *table(["rung", *(f"{name}, {seed}" for name in sets for seed in seeds)], every_run(sets, seeds, runs)),
        "",
        "## All sets",
        "",
        "The base, the baselines as their best trial above has them, and the value-guided agent, on seeds that no",
        "choice was made on. Differences are of means over all sets, paired by seed.",
        "",
        f"`python benchmarks/ladder.py --data-dir DATA_DIR --finals`; the replay set is made by `{REPLAY}`",
        *(line for kind in FINALISTS for line in ("", *finals(kind, runs))),
    ]
    return "\n".join(lines) + "\n"


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *lines)]


def every_run(sets: Sequence[str], seeds: Sequence[int], runs: Path) -> Iterator[list[str]]:
    for rung in RUNGS:
        scores = matrix(rung, sets, seeds, runs)
        if not np.isnan(scores).all():
            yield [rung, *("" if np.isnan(score) else f"{score:.1f}" for score in scores.T.ravel())]


def rows(sets: Sequence[str], seeds: Sequence[int], runs: Path) -> Iterator[list[str]]:
    base = matrix(BASE, sets, seeds, runs)
    for rung, (words, outcome) in RUNGS.items():
        scores = matrix(rung, sets, seeds, runs)
        if np.isnan(scores).all():
            continue
        columns = [
            shown(estimate(column[~np.isnan(column)])) if not np.isnan(column).all() else "" for column in scores.T
        ]
        whole = rung != BASE and not np.isnan(scores - base).any()
        difference = shown(paired_difference(scores.mean(1), base.mean(1))) if whole else ""
        found = [run for name in sets for seed in seeds if (run := read(Cell(name, rung, seed), runs))]
        yield [rung, *columns, difference, *costs(found), outcome, f"`{words}`" if words else ""]


def finals(kind: str, runs: Path) -> list[str]:
    """Every finalist's score on every set, and what the first of them has on it."""
    seeds, rungs = FINALISTS[kind]
    found = {rung: matrix(rung, [*EVERY_SET], seeds, runs) for rung in rungs}
    lines, every = [], []
    for rung, scores in found.items():
        columns = [
            shown(estimate(column[~np.isnan(column)])) if not np.isnan(column).all() else "" for column in scores.T
        ]
        means = scores.mean(1)[~np.isnan(scores).any(1)]
        mean = shown(estimate(means)) if len(means) else ""
        difference = shown_difference(found[rungs[0]], scores) if rung != rungs[0] else ""
        cells = [run for name in EVERY_SET for seed in seeds if (run := read(Cell(name, rung, seed), runs))]
        lines.append([rung, *columns, mean, difference, *(costs(cells) if cells else ("", ""))])
        every.append([rung, *("" if np.isnan(score) else f"{score:.1f}" for score in scores.T.ravel())])
    headings = [kind, *EVERY_SET, "mean", f"{rungs[0]} minus it", "training, s", "acting, us"]
    return [*table(headings, lines), "", *table(["", *(f"{n}, {seed}" for n in EVERY_SET for seed in seeds)], every)]


def shown_difference(ours: Any, theirs: Any) -> str:
    """Of the means over all sets, over the seeds that both have run on all of them."""
    seeds = ~np.isnan(ours + theirs).any(1)
    return shown(paired_difference(ours[seeds].mean(1), theirs[seeds].mean(1))) if seeds.any() else ""


def matrix(rung: str, sets: Sequence[str], seeds: Sequence[int], runs: Path) -> Any:
    """Scores [seeds, sets], nan where a run is missing."""
    found = [[read(Cell(name, rung, seed), runs) for name in sets] for seed in seeds]
    return np.array([[run["score"]["mean"] if run else np.nan for run in row] for row in found])


def costs(found: Sequence[dict[str, Any]]) -> list[str]:
    training = np.median([run["seconds"]["training"] for run in found])
    acting = [(run["seconds"]["evaluation"] - run["seconds"]["environments"]) / max(run["lengths"]) for run in found]
    return [f"{training:.0f}", f"{1e6 * np.median(acting) / 2:.0f}"]  # twenty episodes are two waves of ten


def read(cell: Cell, runs: Path) -> dict[str, Any] | None:
    path = cell.run_dir(runs) / "results.json"
    found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.is_file() else None
    return found


if __name__ == "__main__":
    main()
