"""Characters of Shakespeare (Feng et al. 2024, figure 3): validation loss against steps and against the clock.

python benchmarks/language.py [--text FILE] --jobs 2        about 15 minutes; FILE: any text; default: downloaded

The last tenth of the text is never trained on.
"""

from __future__ import annotations

import csv
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import arguments, axes, report
from sequence_models import Point, SequenceModel, build, fit
from torch import Tensor

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def main() -> None:
    chosen = arguments(
        __doc__,
        text="",
        backbones=["min_gru", "min_lstm", "gru", "mamba", "attention"],
        seed=0,
        length=128,
        batch_size=16,
        num_steps=3000,
        learning_rate=3e-3,
        dropout=0.0,
        measure_every=150,
        target_loss=1.8,
        jobs=1,
    )
    if chosen.text and not Path(chosen.text).is_file():
        raise SystemExit(f"--text: there is no file at {chosen.text}")
    chosen.text = chosen.text or download()
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as pool:
        curves = dict(zip(chosen.backbones, pool.map(run, [(b, vars(chosen)) for b in chosen.backbones]), strict=True))
    note = (
        f"{chosen.num_steps} steps of {chosen.batch_size} x {chosen.length} characters, three layers of width 64, "
        f"equal parameters; validation loss in nats a character. Minutes are of training alone, {chosen.jobs} at once."
    )
    rows = [row_of(name, curve, chosen.target_loss) for name, curve in curves.items()]
    report("language", rows, chosen, note=note, figure=draw(curves))
    with (chosen.out / "language_curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["backbone", *curves[chosen.backbones[0]][0]])
        for name, curve in curves.items():
            writer.writerows([name, *point.values()] for point in curve)


def download() -> str:
    import pooch

    return str(pooch.retrieve(SHAKESPEARE, known_hash=f"sha256:{SHA256}", fname="tinyshakespeare.txt"))


def run(cell: tuple[str, dict[str, Any]]) -> list[Point]:
    """The learning curve of one model."""
    name, chosen = cell
    from agents.devices import choose_device

    choose_device("cpu", chosen["threads"])
    text = Path(chosen["text"]).read_text(encoding="utf-8")
    tokens = {character: token for token, character in enumerate(sorted(set(text)))}
    encoded = torch.tensor([tokens[character] for character in text])
    training, validation = encoded.tensor_split([int(0.9 * len(encoded))])
    model = build(name, len(tokens), chosen["seed"], dropout=chosen["dropout"])
    points = fit(
        model,
        lambda step: passages(training, chosen["batch_size"], chosen["length"], seed=1 + step + 10**7 * chosen["seed"]),
        lambda model: validate(model, validation, chosen["length"]),
        num_steps=chosen["num_steps"],
        measure_every=chosen["measure_every"],
        learning_rate=chosen["learning_rate"],
    )
    print(f"{name}: {points[-1]['validation']:.3f}", flush=True)
    return [{**point, "parameters": sum(p.numel() for p in model.parameters())} for point in points]


def passages(text: Tensor, batch_size: int, length: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Passages [batch, length] from anywhere in the text, and the characters that follow each of theirs."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(text) - length, (batch_size, 1), generator=generator)
    places = first + torch.arange(length + 1)
    return text[places[:, :-1]], text[places[:, 1:]]


def validate(model: SequenceModel, text: Tensor, length: int) -> Point:
    """The mean loss over the whole text, read in passages of the length it was trained on."""
    num_passages = (len(text) - 1) // length
    inputs, targets = (text[shift : shift + num_passages * length].view(-1, length) for shift in (0, 1))
    losses = [
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()) * len(x)
        for x, y in zip(inputs.split(64), targets.split(64), strict=True)
    ]
    return {"validation": float(torch.stack(losses).sum() / num_passages)}


def row_of(name: str, curve: list[Point], target_loss: float) -> dict[str, Any]:
    there = next((point for point in curve if point["validation"] <= target_loss), None)
    return {
        "backbone": name,
        "parameters": str(int(curve[0]["parameters"])),
        "validation loss": curve[-1]["validation"],
        "training loss": curve[-1]["loss"],
        "ms a step": 1e3 * curve[-1]["seconds"] / curve[-1]["step"],
        "minutes": curve[-1]["seconds"] / 60,
        f"steps to {target_loss:g}": None if there is None else str(int(there["step"])),
        f"minutes to {target_loss:g}": None if there is None else there["seconds"] / 60,
    }


def draw(curves: dict[str, list[Point]]) -> Any:
    figure, panels = axes(2, sharey=True)
    for name, curve in curves.items():
        losses = [point["validation"] for point in curve]
        panels[0].plot([point["step"] for point in curve], losses, label=name)
        panels[1].plot([point["seconds"] / 60 for point in curve], losses, label=name)
    panels[0].set(xlabel="gradient steps", ylabel="validation loss, nats a character")
    panels[1].set(xlabel="minutes of training")
    panels[1].legend(frameon=False, loc="center right")
    return figure


if __name__ == "__main__":
    main()
