"""One run on two cores: one process with one thread, with two, and two processes that share its batches.

python benchmarks/processes.py [--hidden-sizes 64 256] [--num-steps 150] [--rounds 3]

Times are of training alone, from results.json; the ways take turns, every second round in reverse order.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import arguments, report

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
WAYS: dict[str, tuple[list[str], str]] = {
    "one process, one thread": ([], "num_threads=1"),
    "one process, two threads": ([], "num_threads=2"),
    "two processes, one thread each": (TORCHRUN, "num_threads=1"),
}


def main() -> None:
    chosen = arguments(__doc__, hidden_sizes=[64, 256], num_steps=150, batch_size=50, rounds=3)
    rows = [row for hidden_size in chosen.hidden_sizes for row in measure(hidden_size, chosen)]
    note = (
        f"hopper_demo, min_gru, {chosen.batch_size} windows of 50 steps over all processes, {chosen.num_steps} steps, "
        "gloo between the processes of one machine."
    )
    report("processes", rows, chosen, note=note)


def measure(hidden_size: int, chosen: Any) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for index in range(chosen.rounds):
        for name in list(WAYS) if index % 2 == 0 else reversed(list(WAYS)):
            seconds[name].append(train(name, hidden_size, chosen))
    base = np.array(seconds["one process, one thread"])
    return [
        {
            "width": hidden_size,
            "way": name,
            "ms a step": 1e3 * float(np.median(found)) / chosen.num_steps,
            "speed-up": float(np.median(base / np.array(found))),
        }
        for name, found in seconds.items()
    ]


def train(way: str, hidden_size: int, chosen: Any) -> float:
    start, threads = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        words = (
            f"task=hopper_demo backbone.hidden_size={hidden_size} train.batch_size={chosen.batch_size} {threads} "
            f"train.num_steps={chosen.num_steps} train.evaluate_every=0 train.checkpoint_every=1000000 "
            f"evaluate.num_episodes=1 agent.acting_mode=carried run_dir={folder}/run device=cpu"
        )
        command = [sys.executable, *start, "train_offline.py", *words.split()]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        results = json.loads((Path(folder) / "run" / "results.json").read_bytes())
    return float(results["seconds"]["training"])


if __name__ == "__main__":
    main()
