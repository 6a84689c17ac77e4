"""One table of every backbone: cost of training and of acting measured here, scores and losses from other benchmarks.

python benchmarks/backbones.py --standing RUNS --out docs          RUNS: the run directories of standing_comparison.py

Accuracies and losses are read from OUT/benchmarks/selective_copying.csv and language.csv, where they are.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import alternate, arguments, machine
from sequence_models import settings_of
from standing_comparison import BACKBONES, FIRST_SEED, SETS, Cell, read, shown

from envs.scores import estimate
from minrnn import Backbone

LENGTHS = (20, 200, 1000)
NAMES = {
    "min_gru": "Feng et al. 2024",
    "min_lstm": "Feng et al. 2024",
    "gru": "Cho et al. 2014",
    "lstm": "Hochreiter and Schmidhuber 1997",
    "attention": "Vaswani et al. 2017, rotary positions",
    "mamba": "Gu and Dao 2023",
    "aaren": "Feng et al. 2024b",
    "s4d": "Gu et al. 2022",
    "mlp": "none: each step alone, a control",
}


def main() -> None:
    chosen = arguments(__doc__, standing="runs/standing", seeds=3, batch_size=8, rounds=5, memory_of="")
    if chosen.memory_of:
        print(peak_memory(*json.loads(chosen.memory_of)))
        return
    rows: dict[str, dict[str, str]] = {name: {"source": NAMES[name]} for name in BACKBONES}
    for name in BACKBONES:
        rows[name]["parameters"] = f"{sum(p.numel() for p in Backbone(**settings_of(name)).parameters()):,}"
    for length in LENGTHS:
        add_training(rows, length, chosen)
    add_acting(rows)
    add_scores(rows, Path(chosen.standing), range(FIRST_SEED, FIRST_SEED + chosen.seeds))
    add_column(rows, chosen.out / "benchmarks" / "selective_copying.csv", copying)
    add_column(rows, chosen.out / "benchmarks" / "language.csv", language)
    write_page(rows, chosen)


def add_training(rows: dict[str, dict[str, str]], length: int, chosen: Any) -> None:
    """Time of a training step as a multiple of min_gru's, and its peak of memory in a process of its own."""
    x = torch.randn(chosen.batch_size, length, settings_of("min_gru")["hidden_size"])
    steps = {name: training_step(name, x) for name in BACKBONES}
    times = alternate(steps, chosen.rounds)
    for name in BACKBONES:
        ratio = float(np.median(times[name] / times["min_gru"]))
        own = f" ({1e3 * np.median(times[name]):.0f} ms)" if name == "min_gru" else ""
        rows[name][f"time, K = {length}"] = f"{ratio:.1f}{own}"
        given = json.dumps([name, length, chosen.batch_size, chosen.threads])
        command = [sys.executable, __file__, "--memory-of", given, "--threads", str(chosen.threads)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows[name][f"MB, K = {length}"] = f"{float(found):.0f}"


def training_step(name: str, x: torch.Tensor) -> Callable[[], object]:
    torch.manual_seed(0)
    backbone = Backbone(**{**settings_of(name), "dropout": 0.0})
    return lambda: backbone(x)[0].square().mean().backward()


def peak_memory(name: str, length: int, batch_size: int, threads: int) -> float:
    """MB that a training step needs above what the process held before it. Linux alone tells."""
    from agents.devices import choose_device

    choose_device("cpu", threads)
    hidden_size = settings_of(name)["hidden_size"]
    training_step(name, torch.zeros(1, 2, hidden_size))()
    step = training_step(name, torch.randn(batch_size, length, hidden_size))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    step()
    return (status("VmHWM") - before) / 1024


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def add_acting(rows: dict[str, dict[str, str]]) -> None:
    """What one decision costs an agent that carries its state, early and late in an episode of one environment."""
    import time

    from config_overrides import Composer
    from train_offline import build_learner, load_task

    for name in BACKBONES:
        config = Composer("train_offline").config(
            ["experiment=backbones", f"backbone={name}", "agent.acting_mode=carried"]
        )
        agent = build_learner(config, *load_task(config), torch.device("cpu")).acting_agent
        agent.reset(1, 3000.0)
        observation, reward, seconds = np.ones((1, 11)), np.zeros(1), []
        for _ in range(1020):
            began = time.perf_counter()
            agent.act(observation, reward)
            seconds.append(time.perf_counter() - began)
        for step in (10, 1000):
            around = seconds[step - 8 : step + 12]
            rows[name][f"act, us, step {step:,}"] = f"{1e6 * np.median(around):,.0f}"


def add_scores(rows: dict[str, dict[str, str]], runs: Path, seeds: range) -> None:
    """The mean over the sets of the standing comparison, over the seeds that ran on all of them."""
    for name in BACKBONES:
        scores = []
        for seed in seeds:
            results = [read(Cell(set_name, name, seed), runs) for set_name in SETS]
            if None not in results:
                scores.append([result["score"]["mean"] for result in results if result is not None])
        rows[name]["score"] = shown(estimate(scores)) if scores else "not run"


def add_column(
    rows: dict[str, dict[str, str]], path: Path, read_row: Callable[[dict[str, str]], tuple[str, str]]
) -> None:
    for row in csv.DictReader(path.open(encoding="utf-8")) if path.is_file() else ():
        heading, value = read_row(row)
        if row["backbone"] in rows:
            rows[row["backbone"]][heading] = value


def copying(row: dict[str, str]) -> tuple[str, str]:
    return f"copying, {row['layers']} layer{'s' * (row['layers'] != '1')}, %", f"{float(row['accuracy, %']):.1f}"


def language(row: dict[str, str]) -> tuple[str, str]:
    return "language, nats", f"{float(row['validation loss']):.3f}"


def write_page(rows: dict[str, dict[str, str]], chosen: Any) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    scores = [column for column in columns if column.startswith(("score", "copying", "language"))]
    costs = [column for column in columns if column not in (*scores, "source")]
    page = chosen.out / "backbones.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN) if page.is_file() else ("", "", END)
    inside = "\n".join(
        [
            BEGIN,
            f"`python benchmarks/backbones.py --out docs`; {machine(chosen.threads)}",
            "",
            *table(rows, ["source", *scores]),
            "",
            *table(rows, costs),
            "",
        ]
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(before + inside + END + rest.partition(END)[2], encoding="utf-8")
    print(inside)


def table(rows: dict[str, dict[str, str]], columns: list[str]) -> list[str]:
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[f"`{name}`", *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    return [f"| {' | '.join(line)} |" for line in lines]


BEGIN, END = "<!-- printed by benchmarks/backbones.py -->\n", "<!-- end -->\n"

if __name__ == "__main__":
    main()
