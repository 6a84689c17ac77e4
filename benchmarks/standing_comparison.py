"""The standing comparison: every backbone on every set at equal parameters and steps, printed from run directories.

python benchmarks/standing_comparison.py --data-dir DATA_DIR --jobs 2 [--only-print]

DATA_DIR holds hopper_medium-v2.hdf5, hopper_medium_expert-v2.hdf5 and halfcheetah_medium_expert-v2.hdf5; sets of their
kind are made by `python collect.py env_id=Hopper-v5` and `env_id=HalfCheetah-v5`. Cells that are finished are skipped,
cells that are missing are printed as missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import machine

from envs.scores import Estimate, estimate, interquartile_mean, paired_difference, probability_of_improvement

ROOT = Path(__file__).resolve().parent.parent
BACKBONES = ("min_gru", "min_lstm", "gru", "lstm", "attention", "mamba", "aaren", "s4d", "mlp")
SETS = {  # name: (task, file, environment)
    "hopper demo": ("hopper_demo", None, None),
    "hopper medium": ("hopper", "hopper_medium-v2.hdf5", "Hopper-v5"),
    "hopper medium-expert": ("hopper", "hopper_medium_expert-v2.hdf5", "Hopper-v5"),
    "halfcheetah medium-expert": ("halfcheetah", "halfcheetah_medium_expert-v2.hdf5", "HalfCheetah-v5"),
}


FIRST_SEED = 80  # the agent's own settings were chosen with min_gru on lower ones


class Cell(NamedTuple):
    """One run."""

    set_name: str
    backbone: str
    seed: int

    def run_dir(self, runs: Path) -> Path:
        return runs / self.set_name.replace(" ", "_") / f"{self.backbone}-seed{self.seed}"

    def command(self, agent: str, data_dir: str, runs: Path | None) -> list[str]:
        task, file, env_id = SETS[self.set_name]
        words = [f"experiment=backbones agent={agent} task={task} backbone={self.backbone}"]
        words += [f"seed={self.seed} num_threads=1"]
        words += [f"dataset={data_dir}/{file} env_id={env_id}"] if file else []
        words += [f"run_dir={self.run_dir(runs)}"] if runs else []
        return ["train_offline.py", *" ".join(words).split(" ")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", default=os.environ.get("DATA_DIR"), help="default: $DATA_DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/standing"))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--agent", default="ensemble", help="a word of configs/agent")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--only-print", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    chosen = parser.parse_args()
    if chosen.data_dir and not Path(chosen.data_dir).is_dir():
        parser.error(f"--data-dir: there is no folder at {chosen.data_dir}")
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    cells = list(all_cells(seeds))
    if not chosen.only_print:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            for line in pool.map(lambda cell: train(cell, chosen), cells):
                print(line, flush=True)
    page = write_page({cell: read(cell, chosen.runs) for cell in cells}, chosen, seeds)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(page, encoding="utf-8")
    print(f"written: {chosen.out}")


def all_cells(seeds: range) -> Iterator[Cell]:
    """Seed by seed, so that what is there after an hour is a fair comparison."""
    for seed in seeds:
        for set_name in SETS:
            for backbone in BACKBONES:
                yield Cell(set_name, backbone, seed)


def train(cell: Cell, chosen: Any) -> str:
    run_dir = cell.run_dir(chosen.runs)
    if (run_dir / "results.json").is_file():
        return f"{run_dir}: finished before"
    if SETS[cell.set_name][1] and not chosen.data_dir:
        return f"{run_dir}: missing, it needs --data-dir"
    command = [sys.executable, *cell.command(chosen.agent, chosen.data_dir, chosen.runs.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcome = "finished" if done.returncode == 0 else f"failed: {done.stderr.strip().splitlines()[-1:]}"
    return f"{run_dir}: {outcome}"


def read(cell: Cell, runs: Path) -> dict[str, Any] | None:
    try:
        results: dict[str, Any] = json.loads((cell.run_dir(runs) / "results.json").read_bytes())
    except (OSError, ValueError):
        return None
    return results if results["score"]["mean"] is not None else None


def write_page(found: dict[Cell, dict[str, Any] | None], chosen: Any, seeds: range) -> str:
    num_missing = sum(results is None for results in found.values())
    lines = [
        "# The standing comparison",
        "",
        f"{len(BACKBONES)} backbones at equal parameters (to 2 %) of one agent, `{chosen.agent}`: 2,000 gradient",
        f"steps, merged tokens, last checkpoint, 20 episodes a run, {chosen.seeds} seeds from {chosen.first_seed} on:",
        "mean and 95 % bootstrap interval over seeds; few seeds make wide intervals, and intervals that overlap show",
        "no difference. The agent's own settings were chosen with min_gru, on other seeds.",
        "",
        f"`python benchmarks/standing_comparison.py --data-dir DATA_DIR --agent {chosen.agent} --seeds {chosen.seeds} "
        f"--first-seed {chosen.first_seed}`, one cell: "
        f"`python {' '.join(Cell('hopper medium', 'min_gru', seeds[0]).command(chosen.agent, 'DATA_DIR', None))}`",
        "",
        machine(1),
        "",
        "For orientation, not from here: over the nine D4RL gym sets at their full size the paper reports means of",
        "78.2 (minGRU), 78.1 (minLSTM) and 76.4 (decision transformer) (Feng et al. 2024, arXiv 2410.01201);",
        "`python train_offline.py -m experiment=d4rl_gym seed=0,1,2,3,4` runs those sets.",
        "",
        *([f"**{num_missing} of {len(found)} runs are missing.**", ""] if num_missing else []),
        *_table(["set", *BACKBONES], [[name, *_row(found, name, seeds)] for name in SETS]),
        "",
        "## Over all sets",
        "",
        *_over_all(found, seeds),
        "",
        "## Cost",
        "",
        "Seconds of training and of acting (20 episodes, environments included), parameters; means over all runs.",
        "",
        *_table(["", *BACKBONES], _costs(found)),
        "",
        "## Every run",
        "",
        *_table(["set", "seed", *BACKBONES], [row for name in SETS for row in _runs(found, name, seeds)]),
        "",
        "## Data",
        "",
        *_table(["set", "file", "sha256", "environment", "mean return", "asked for"], [_data(found, n) for n in SETS]),
    ]
    return "\n".join(lines) + "\n"


def _scores(found: dict[Cell, dict[str, Any] | None], name: str, backbone: str, seeds: range) -> list[float]:
    runs = [found[Cell(name, backbone, seed)] for seed in seeds]
    return [run["score"]["mean"] for run in runs if run is not None]


def _row(found: dict[Cell, dict[str, Any] | None], name: str, seeds: range) -> list[str]:
    return [_in_words(_scores(found, name, backbone, seeds)) for backbone in BACKBONES]


def _in_words(scores: list[float]) -> str:
    return shown(estimate(scores)) if scores else "missing"


def shown(found: Estimate, digits: int = 1) -> str:
    if found.ci_low is None:
        return f"{found.value:.{digits}f} (n = {found.n})"
    return f"{found.value:.{digits}f} [{found.ci_low:.{digits}f}, {found.ci_high:.{digits}f}] (n = {found.n})"


def _over_all(found: dict[Cell, dict[str, Any] | None], seeds: range) -> list[str]:
    whole = {
        backbone: np.array([_scores(found, name, backbone, seeds) for name in SETS]).T
        for backbone in BACKBONES
        if all(len(_scores(found, name, backbone, seeds)) == len(seeds) for name in SETS)
    }
    if "min_gru" not in whole:
        return ["missing: min_gru has not run on every set"]
    rows = []
    for backbone, scores in whole.items():
        better, difference = "", ""
        if backbone != "min_gru":
            better = shown(probability_of_improvement(whole["min_gru"], scores), 2)
            difference = shown(paired_difference(whole["min_gru"], scores))
        rows.append(
            [backbone, shown(estimate(scores)), shown(estimate(scores, interquartile_mean)), difference, better]
        )
    headings = ["", "mean", "interquartile mean", "min_gru minus it, paired", "probability that min_gru is better"]
    return _table(headings, rows)


def _costs(found: dict[Cell, dict[str, Any] | None]) -> list[list[str]]:
    rows: list[list[str]] = [["training, s"], ["acting, s"], ["parameters"]]
    for backbone in BACKBONES:
        runs = [run for cell, run in found.items() if cell.backbone == backbone and run is not None]
        for row, values in zip(
            rows,
            (
                [run["seconds"]["training"] for run in runs],
                [run["seconds"]["evaluation"] for run in runs],
                [run["weights"]["num_parameters"] for run in runs],
            ),
            strict=True,
        ):
            row.append(f"{np.mean(values):,.1f}" if values else "missing")
    return rows


def _runs(found: dict[Cell, dict[str, Any] | None], name: str, seeds: range) -> Iterator[list[str]]:
    for seed in seeds:
        runs = [found[Cell(name, backbone, seed)] for backbone in BACKBONES]
        yield [name, str(seed), *("missing" if run is None else f"{run['score']['mean']:.1f}" for run in runs)]


def _data(found: dict[Cell, dict[str, Any] | None], name: str) -> list[str]:
    run = next((run for cell, run in found.items() if cell.set_name == name and run is not None), None)
    if run is None:
        return [name, SETS[name][1] or "embedded", "missing", "", "", ""]
    about, data = run["provenance"], run["provenance"]["dataset"]
    file, protocol = SETS[name][1] or "embedded", run["protocol"]
    asked_for = f"{protocol['target_return']:g}" if protocol.get("asks_for_return", True) else "nothing"
    return [name, file, f"`{data['sha256'][:16]}...`", about["env_id"], f"{data['mean_return']:.0f}", asked_for]


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *rows)]


if __name__ == "__main__":
    main()
