"""The ladder: what each change to the agent gains on small sets, seeds paired, one rung at a time.

python benchmarks/ladder.py --data-dir DATA_DIR --jobs 2 [--rungs NAME ...] [--only-print]
python benchmarks/ladder.py --data-dir DATA_DIR --jobs 2 --finals                the best of them on all sets, new seeds

DATA_DIR as in standing_comparison.py, and for --finals with what rungs.REPLAY makes. Every rung is the base, one member
of the default, with a few words of config changed: 2,000 gradient steps, width 64, last checkpoint, 20 episodes; a
target, where one is asked for, is declared before training. Runs that are finished are not repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measuring import arguments, machine
from rungs import BASE, BASE_AGENT, EVERY_SET, FINALISTS, REPLAY, RUNGS, SCREENED, SCREENING_SEEDS, Cell, matrix
from standing_comparison import shown

from envs.scores import estimate, paired_difference

ROOT = Path(__file__).resolve().parent.parent


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
        "paired by seed. 2,000 gradient steps of 1,250 environment steps at width 64, last checkpoint, 20 episodes a",
        "run; where a return is asked for it is one target declared before training. Three seeds make wide intervals:",
        "one that holds zero shows no gain. Acting is the policy's share of a step of ten environments. The base is",
        f"`{BASE_AGENT}`, one member of the default.",
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
        "The base, the baselines as their best trial above has them, the ensemble and the value-guided agent, on seeds",
        "that no choice was made on. Differences are of means over all sets, paired by seed.",
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
        found = [run for name in sets for seed in seeds if (run := Cell(name, rung, seed).results(runs))]
        yield [rung, *columns, difference, *costs(found), outcome, f"`{words}`" if words else ""]


def finals(kind: str, runs: Path) -> list[str]:
    """Every finalist's score on every set, and what the first of them has on it."""
    seeds, rungs = FINALISTS[kind]
    found = {rung: matrix(rung, [*EVERY_SET], seeds, runs) for rung in rungs}
    first, lines = found[rungs[0]], []
    found = {rung: scores for rung, scores in found.items() if not np.isnan(scores).all()}
    for rung, scores in found.items():
        columns = [
            shown(estimate(column[~np.isnan(column)])) if not np.isnan(column).all() else "" for column in scores.T
        ]
        means = scores.mean(1)[~np.isnan(scores).any(1)]
        mean = shown(estimate(means)) if len(means) else ""
        difference = shown_difference(first, scores) if rung != rungs[0] else ""
        cells = [run for name in EVERY_SET for seed in seeds if (run := Cell(name, rung, seed).results(runs))]
        lines.append([rung, *columns, mean, difference, *(costs(cells) if cells else ("", ""))])
    every = [
        [
            name,
            str(seed),
            *("" if np.isnan(scores[row, column]) else f"{scores[row, column]:.1f}" for scores in found.values()),
        ]
        for column, name in enumerate(EVERY_SET)
        for row, seed in enumerate(seeds)
    ]
    headings = [kind, *EVERY_SET, "mean", f"{rungs[0]} minus it", "training, s", "acting, us"]
    return [*table(headings, lines), "", *table(["set", "seed", *found], every)]


def shown_difference(ours: Any, theirs: Any) -> str:
    """Of the means over all sets, over the seeds that both have run on all of them."""
    seeds = ~np.isnan(ours + theirs).any(1)
    return shown(paired_difference(ours[seeds].mean(1), theirs[seeds].mean(1))) if seeds.any() else ""


def costs(found: Sequence[dict[str, Any]]) -> list[str]:
    training = np.median([run["seconds"]["training"] for run in found])
    acting = [(run["seconds"]["evaluation"] - run["seconds"]["environments"]) / max(run["lengths"]) for run in found]
    return [f"{training:.0f}", f"{1e6 * np.median(acting) / 2:.0f}"]  # twenty episodes are two waves of ten


if __name__ == "__main__":
    main()
