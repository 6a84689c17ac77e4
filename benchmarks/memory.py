"""Does memory longer than a window pay in control? A state carried over long packed rows against windows of 20 steps.

python benchmarks/memory.py --data-dir DATA_DIR --jobs 2          DATA_DIR as in standing_comparison.py; without: recall

recall: an answer that depends on the first of 100 steps (benchmarks/recall.py). Hopper and HalfCheetah: positions
alone, so that velocities have to be inferred. Runs that are finished are not repeated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measuring import arguments, report
from recall import record

from envs.scores import estimate, paired_difference
from envs.writing import write_d4rl

ROOT = Path(__file__).resolve().parent.parent
COMMON = (
    "agent=decision_transformer train.num_steps=1500 train.evaluate_every=0 train.checkpoint_every=1500 num_threads=1"
)
WINDOWS = "agent.context_length=20 train.batch_size=100"
LONG = "agent.context_length=200 train.batch_size=10"
PACKED = f"{LONG} train.packed=true agent.acting_mode=carried"
METHODS = {
    "min_gru, packed rows of 200, spread memories": f"backbone=min_gru {PACKED} backbone.mixer.memory_length=200",
    "min_gru, packed rows of 200": f"backbone=min_gru {PACKED}",
    "min_gru, windows of 20": f"backbone=min_gru {WINDOWS}",
    "mamba, packed rows of 200": f"backbone=mamba {PACKED}",
    "attention, windows of 20": f"backbone=attention {WINDOWS}",
    "attention, windows of 200": f"backbone=attention {LONG}",
}
SETS = {
    "recall": "task=any dataset={runs}/recall.hdf5 env_id=recall:Recall-v0 target_return=1 evaluate.num_episodes=100",
    "hopper, positions": "task=hopper dataset={data}/hopper_medium_expert-v2.hdf5 env_id=Hopper-v5 "
    "observation_columns=[0,1,2,3,4]",
    "halfcheetah, positions": "task=halfcheetah dataset={data}/halfcheetah_medium_expert-v2.hdf5 "
    "env_id=HalfCheetah-v5 observation_columns=[0,1,2,3,4,5,6,7]",
}
Cell = tuple[str, str, int]


def main() -> None:
    chosen = arguments(
        __doc__, data_dir="", runs="runs/memory", seeds=[0, 1, 2], jobs=1, only_print=False, sets=list(SETS)
    )
    runs = Path(chosen.runs).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    write_d4rl(record(3000, seed=0), runs / "recall.hdf5")
    sets = [name for name in chosen.sets if chosen.data_dir or "{data}" not in SETS[name]]
    cells = [(name, method, seed) for seed in chosen.seeds for name in sets for method in METHODS]
    if not chosen.only_print:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            for line in pool.map(lambda cell: train(cell, chosen.data_dir, runs), cells):
                print(line, flush=True)
    rows = [row for name in sets for row in rows_of(name, chosen.seeds, runs)]
    note = (
        f"1,500 gradient steps on 2,000 environment steps each, seeds {' '.join(map(str, chosen.seeds))}. "
        "recall: return of 100 episodes, guessing gives 0.25; else the normalised score of 20 episodes, 95 % bootstrap "
        "intervals over seeds. Differences are paired by seed. Acting: the policy's share of a step of one environment."
    )
    report("memory", rows, chosen, note=note)


def run_dir(cell: Cell, runs: Path) -> Path:
    name, method, seed = (str(part).replace(", ", "-").replace(" ", "_") for part in cell)
    return runs / name / f"{method}-seed{seed}"


def train(cell: Cell, data_dir: str, runs: Path) -> str:
    name, method, seed = cell
    path = run_dir(cell, runs)
    if (path / "results.json").is_file():
        return f"{path}: finished before"
    words = f"{SETS[name].format(runs=runs, data=data_dir)} {METHODS[method]} {COMMON} seed={seed} run_dir={path}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    command = [sys.executable, "train_offline.py", *words.split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return f"{path}: {'finished' if done.returncode == 0 else f'failed: {done.stderr.strip().splitlines()[-1:]}'}"


def rows_of(name: str, seeds: list[int], runs: Path) -> list[dict[str, Any]]:
    """One row a method: its score, how much the first method is ahead of it, and what it costs."""
    base = [score_of((name, next(iter(METHODS)), seed), runs) for seed in seeds]
    rows = []
    for method in METHODS:
        results = [read((name, method, seed), runs) for seed in seeds]
        found = [result for result in results if result is not None]
        scores = [score_of((name, method, seed), runs) for seed in seeds]
        known = None not in (*scores, *base) and scores != base
        difference = paired_difference(np.array(base)[:, None], np.array(scores)[:, None]) if known else None
        rows.append(
            {
                "task": name,
                "method": method,
                "score": in_words(estimate([s for s in scores if s is not None])) if found else "missing",
                "first method minus it": in_words(difference) if difference else "",
                "acts by": "/".join(sorted({result["protocol"]["acting_mode"] for result in found})),
                "training, s": mean([result["seconds"]["training"] for result in found]),
                "acting, us": mean([acting_microseconds(result) for result in found]),
                "parameters": str(found[0]["weights"]["num_parameters"]) if found else "",
            }
        )
    return rows


def read(cell: Cell, runs: Path) -> dict[str, Any] | None:
    path = run_dir(cell, runs) / "results.json"
    result: dict[str, Any] | None = json.loads(path.read_bytes()) if path.is_file() else None
    return result


def score_of(cell: Cell, runs: Path) -> float | None:
    result = read(cell, runs)
    if result is None:
        return None
    score = result["score"]["mean"]
    return float(np.mean(result["returns"]) if score is None else score)


def acting_microseconds(result: dict[str, Any]) -> float:
    seconds = result["seconds"]["evaluation"] - result["seconds"]["environments"]
    return float(1e6 * seconds / sum(result["lengths"]))


def mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def in_words(found: Any) -> str:
    digits = 2 if abs(found.value) < 2 else 1
    between = "" if found.ci_low is None else f" [{found.ci_low:.{digits}f}, {found.ci_high:.{digits}f}]"
    return f"{found.value:.{digits}f}{between}"


if __name__ == "__main__":
    main()
