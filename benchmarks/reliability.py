"""What it costs that a run cannot be lost: its saves and guards, timed inside a real run of the demo.

python benchmarks/reliability.py [--num-steps 3000]
"""

from __future__ import annotations

import functools
import json
import math
import tempfile
import time
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import arguments, report

import agents.learner
import train_offline
from interruptions import Interruptions
from metrics import MetricsLog
from run import RunDirectory

spent: dict[str, list[float]] = defaultdict(list)


def main() -> None:
    chosen = arguments(__doc__, num_steps=0)
    watch()
    steps = [f"train.num_steps={chosen.num_steps}"] if chosen.num_steps else []
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        train_offline.main([f"run_dir={run_dir}", f"num_threads={chosen.threads}", *steps])
        seconds = json.loads((run_dir / "results.json").read_text())["seconds"]["training"]
    rows = [row_of(part, seconds) for part in sorted(spent)]
    rows.append(row_of("all of it", seconds, [one for part in spent.values() for one in part]))
    note = f"Inside {seconds:.0f} s of training the demo, the points of its curve included."
    report("reliability", rows, chosen, note=note)


def row_of(part: str, seconds: float, times: list[float] | None = None) -> dict[str, Any]:
    times = spent[part] if times is None else times
    return {
        "part": part,
        "times": len(times),
        "ms each": 1e3 * float(np.median(times)),
        "ms at most": 1e3 * max(times),
        "% of the training": 100 * sum(times) / seconds,
    }


def watch() -> None:
    """Has every save and guard note how long it took."""
    for owner, method, part in (
        (RunDirectory, "save", "saving a checkpoint"),
        (MetricsLog, "flush", "flushing TensorBoard"),
        (Interruptions, "end_if_asked", "heeding signals"),
        (Interruptions, "__enter__", "heeding signals"),
        (RunDirectory, "begin", "config.json and task.json"),
    ):
        setattr(owner, method, timed(part, getattr(owner, method)))
    with_isfinite_timed = {**vars(math), "isfinite": timed("is the gradient finite", math.isfinite)}
    agents.learner.math = types.SimpleNamespace(**with_isfinite_timed)  # type: ignore[attr-defined]


def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(*given: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*given, **keywords)
        finally:
            spent[part].append(time.perf_counter() - began)

    return wrapper


if __name__ == "__main__":
    main()
