"""How every benchmark here measures and reports: paired and alternated timing, a table, a CSV file, a figure.

Absolute times of a shared machine drift from minute to minute; ratios of runs that took turns do not. So candidates
run one after another, round after round, and what is reported of two of them is the median of their ratios.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Times = Mapping[str, NDArray[np.float64]]


def arguments(description: str | None, **extra: Any) -> argparse.Namespace:
    """The command line of a benchmark: --out, --threads, --device, and one option for each keyword's default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="where the CSV and the PNG go")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch and of the kernels")
    parser.add_argument("--device", default="cpu", help="where torch makes tensors: cpu, cuda, cuda:N or mps")
    for name, default in extra.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true")
        elif isinstance(default, list):
            parser.add_argument(option, type=type(default[0]), nargs="+", default=default)
        else:
            parser.add_argument(option, type=type(default) if default is not None else str, default=default)
    chosen = parser.parse_args()
    import torch

    from agents.devices import choose_device

    torch.set_default_device(choose_device(chosen.device, chosen.threads))  # the threads as train_offline.py does
    return chosen


def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds [rounds] of each candidate; every round runs all of them, every second one in reverse order."""
    names = list(candidates)
    for name in names:
        candidates[name]()  # caches and allocators fill outside the measurement
    seconds = {name: np.zeros(rounds) for name in names}
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            wait_for_device()
            began = time.perf_counter()
            candidates[name]()
            wait_for_device()
            seconds[name][index] = time.perf_counter() - began
    return seconds


def wait_for_device() -> None:
    """Until a GPU has done what it was given; what runs on the CPU has been done when its call returns."""
    import torch

    kind = torch.get_default_device().type
    if kind != "cpu":
        getattr(torch, kind).synchronize()


def ratio(times: Times, name: str, base: str) -> float:
    """The median over the rounds of one candidate's time divided by another's of the same round."""
    return float(np.median(times[name] / times[base]))


def milliseconds(times: Times, name: str) -> float:
    return 1e3 * float(np.median(times[name]))


def machine(threads: int, device: str = "cpu") -> str:
    """One line on what the numbers were measured on."""
    from importlib.metadata import version

    import torch

    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    if device.startswith("cuda"):
        model = f"{torch.cuda.get_device_name(device)} beside {model}"
    return (
        f"{model}, {threads} thread{'s' * (threads > 1)}, Python {platform.python_version()}, "
        f"torch {version('torch')}, {datetime.date.today()}"
    )


def report(
    name: str, rows: Sequence[Mapping[str, Any]], chosen: argparse.Namespace, *, note: str = "", figure: Any = None
) -> None:
    """Prints the rows as a table and writes NAME.csv, NAME.md and, given a figure, NAME.png.

    Where the device is none of the CPU, its kind is part of the name: train_step_cuda.
    """
    if chosen.device != "cpu":
        name += "_" + chosen.device.partition(":")[0]
    console = Console(width=160)
    table = Table(title=name)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console.print(table)
    made_on = machine(chosen.threads, chosen.device)
    console.print(note, made_on, sep="\n", highlight=False)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with (chosen.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    given = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = shlex.join(["python", "benchmarks/" + Path(sys.argv[0]).name, *given])
    page = [f"# {name}", f"`{command}`", made_on, *([note] if note else []), _markdown(rows)]
    if figure is not None:
        figure.savefig(chosen.out / f"{name}.png", dpi=120)
        page.append(f"![{name}]({name}.png)")
    (chosen.out / f"{name}.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    console.print(f"written: {chosen.out}/{name}.md, .csv", highlight=False)


def axes(columns: int = 1, **settings: Any) -> tuple[Any, Any]:
    """A figure and its axes; never opens a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, **settings)


def bars(rows: Sequence[Mapping[str, Any]], value: str, label: str, by: str) -> Any:
    """A figure of horizontal bars: one panel for each value of the column `by`, one bar a row."""
    panels = list(dict.fromkeys(row[by] for row in rows))
    figure, all_axes = axes(len(panels), squeeze=False)
    figure.set_size_inches(5.5 * len(panels), 1.2 + 0.24 * len(rows) / len(panels))
    for axis, panel in zip(all_axes[0], panels, strict=True):
        shown = [row for row in rows if row[by] == panel][::-1]
        axis.barh([str(row[label]) for row in shown], [row[value] for row in shown])
        axis.set(xlabel=value, title=f"{by} {panel}")
    return figure


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
