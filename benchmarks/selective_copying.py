"""Selective copying (Gu and Dao 2023; Feng et al. 2024, table 1): repeat the tokens that stood scattered among noise.

python benchmarks/selective_copying.py --jobs 2                                      length 64, about 20 minutes
python benchmarks/selective_copying.py --backbones min_gru min_lstm gru lstm attention mamba aaren s4d --layers 1 2 3
python benchmarks/selective_copying.py --length 4096 --num-steps 400000 --learning-rate 3e-4     the paper's, for a GPU
"""

from __future__ import annotations

import csv
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from measuring import arguments, axes, report
from sequence_models import Point, SequenceModel, build, fit
from torch import Tensor

NUM_TOKENS = 16  # 14 that carry data, the noise and the mark that asks for the answer
NOISE, ASKED = 14, 15
TESTED = 1000


def main() -> None:
    chosen = arguments(
        __doc__,
        backbones=["min_gru", "min_lstm"],
        layers=[1, 3],
        seeds=[0],
        length=64,
        num_data=16,
        num_steps=6000,
        batch_size=64,
        learning_rate=3e-3,
        measure_every=250,
        jobs=1,
    )
    cells = [
        (backbone, layers, seed, vars(chosen))
        for seed in chosen.seeds
        for backbone in chosen.backbones
        for layers in chosen.layers
    ]
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as pool:
        curves = list(pool.map(run, cells))
    rows = [row_of(cell, curve) for cell, curve in zip(cells, curves, strict=True)]
    note = (
        f"{chosen.num_data} of {chosen.length} places hold data, the others noise; then it is asked for in order. "
        f"Accuracy over tokens of {TESTED} new sequences, at most {chosen.num_steps} steps of {chosen.batch_size} "
        "sequences, ended where it reaches 99.9 %. Chance is 7.1 %."
    )
    report("selective_copying", rows, chosen, note=note, figure=draw(cells, curves))
    write_curves(chosen.out / "selective_copying_curves.csv", cells, curves)


def run(cell: tuple[str, int, int, dict[str, Any]]) -> list[Point]:
    """The learning curve of one model."""
    backbone, layers, seed, chosen = cell
    from agents.devices import choose_device

    choose_device("cpu", chosen["threads"])
    model = build(backbone, NUM_TOKENS, seed, num_layers=layers)
    length, num_data, batch_size = chosen["length"], chosen["num_data"], chosen["batch_size"]
    points = fit(
        model,
        lambda step: sequences(batch_size, length, num_data, seed=1 + step + 10**7 * seed),
        lambda model: accuracy(model, length, num_data),
        num_steps=chosen["num_steps"],
        measure_every=chosen["measure_every"],
        learning_rate=chosen["learning_rate"],
        enough=lambda point: point["accuracy"] >= 0.999,
    )
    print(f"{backbone}, {layers} layers, seed {seed}: {100 * points[-1]['accuracy']:.1f} %", flush=True)
    return points


def sequences(batch_size: int, length: int, num_data: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets [batch, length + num_data]; the target is -100 where nothing is asked."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(NOISE, (batch_size, num_data), generator=generator)
    places = torch.rand(batch_size, length, generator=generator).topk(num_data).indices.sort(dim=1).values
    tokens = torch.full((batch_size, length + num_data), NOISE)
    tokens.scatter_(1, places, data)
    tokens[:, length:] = ASKED
    targets = torch.full_like(tokens, -100)
    targets[:, length:] = data
    return tokens, targets


def accuracy(model: SequenceModel, length: int, num_data: int) -> Point:
    tokens, targets = sequences(TESTED, length, num_data, seed=0)
    right = torch.cat(
        [(model(x).argmax(-1) == y)[:, length:] for x, y in zip(tokens.split(100), targets.split(100), strict=True)]
    )
    return {"accuracy": right.float().mean().item(), "whole": right.all(dim=1).float().mean().item()}


def row_of(cell: tuple[str, int, int, dict[str, Any]], curve: list[Point]) -> dict[str, Any]:
    backbone, layers, seed, _ = cell
    parameters = sum(p.numel() for p in build(backbone, NUM_TOKENS, seed, num_layers=layers).parameters())
    return {
        "backbone": backbone,
        "layers": str(layers),
        "seed": str(seed),
        "parameters": str(parameters),
        "steps": str(int(curve[-1]["step"])),
        "minutes": curve[-1]["seconds"] / 60,
        "accuracy, %": 100 * curve[-1]["accuracy"],
        "whole sequences, %": 100 * curve[-1]["whole"],
    }


def draw(cells: list[Any], curves: list[list[Point]]) -> Any:
    figure, axis = axes()
    for index, ((backbone, layers, seed, _), curve) in enumerate(zip(cells, curves, strict=True)):
        style = {1: ":", 2: "--"}.get(layers, "-")
        label = f"{backbone}, {layers} layer{'s' * (layers > 1)}" if seed == cells[0][2] else None
        steps, accuracies = [point["step"] for point in curve], [100 * point["accuracy"] for point in curve]
        axis.plot(
            steps, accuracies, style, color=f"C{index % len(cells) // len({c[1] for c in cells}) % 10}", label=label
        )
    axis.set(xlabel="gradient steps", ylabel="accuracy, %", ylim=(0, 101))
    axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def write_curves(path: Path, cells: list[Any], curves: list[list[Point]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["backbone", "layers", "seed", *curves[0][0]])
        for (backbone, layers, seed, _), curve in zip(cells, curves, strict=True):
            writer.writerows([backbone, layers, seed, *point.values()] for point in curve)


if __name__ == "__main__":
    main()
