"""What a run measured after which gradient step: RUN/metrics.jsonl and RUN/tensorboard/."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from config import dotted_keys
from run import write_whole


class MetricsLog:
    """What was measured after which gradient step: a line of JSON each, and the same numbers in TensorBoard.

    Opened at first_step it forgets what was logged after that step, so a resumed run repeats none.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        kept = [row for row in read_metrics(path) if row["step"] <= first_step]
        self._curve = learning_curve(kept)
        write_whole(path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (path / "metrics.jsonl").open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(path / "tensorboard"), purge_step=first_step + 1)  # type: ignore[no-untyped-call]

    @property
    def best_step(self) -> int | None:
        """The step whose evaluation gave the most; None before the first."""
        return best_step(self._curve)

    def write(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """Logs values measured after this many gradient steps as GROUP/NAME; None is not logged."""
        named = {f"{group}/{name}": value for name, value in values.items() if value is not None}
        self._file.write(json.dumps({"step": step, **named}) + "\n")
        self._file.flush()
        self.show(step, group, values)

    def show(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """Has TensorBoard alone show values: those that two runs of one config do not share, as their speed."""
        for name, value in values.items():
            if value is not None:
                self._tensorboard.add_scalar(f"{group}/{name}", value, step)  # type: ignore[no-untyped-call]

    def write_score(self, step: int, results: Mapping[str, Any]) -> None:
        """Logs what an evaluation after this many gradient steps gave; once, however often the run resumes there."""
        returns, score = results["returns"], results["score"]
        if returns and step not in self._curve:
            self._curve[step] = statistics.fmean(returns) if score["mean"] is None else score["mean"]
            spread = {"return_mean": statistics.fmean(returns), "return_std": statistics.pstdev(returns)}
            self.write(step, "score", {**spread, "normalized": score["mean"]})

    def flush(self) -> None:
        """Has TensorBoard's file hold all that was logged; the JSON lines are written at once."""
        self._tensorboard.flush()  # type: ignore[no-untyped-call]

    def write_figure(self, name: str, figure: Any, step: int) -> None:
        """Shows a matplotlib figure in TensorBoard."""
        import numpy as np

        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        self._tensorboard.add_image(name, pixels, step, dataformats="HWC")  # type: ignore[no-untyped-call]

    def write_results(self, config: dict[str, Any], results: Mapping[str, Any]) -> None:
        """The final score: the last point of the curve, and TensorBoard's table of hyper-parameters."""
        self.write_score(config["train"]["num_steps"], results)
        if results["returns"]:
            outcome = {"return_mean": statistics.fmean(results["returns"])}
            known = (bool, int, float, str)
            parameters = {key: value if isinstance(value, known) else str(value) for key, value in dotted_keys(config)}
            self._tensorboard.add_hparams(parameters, outcome, run_name="hparams")  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._tensorboard.close()  # type: ignore[no-untyped-call]


class NoLog(MetricsLog):
    """That of a process that trains with others and leaves writing to the first of them."""

    def __init__(self) -> None:
        self._curve = {}

    def write(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        pass

    def show(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        pass

    def flush(self) -> None:
        pass

    def write_figure(self, name: str, figure: Any, step: int) -> None:
        pass

    def write_results(self, config: dict[str, Any], results: Mapping[str, Any]) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged rows of a run directory, oldest first, up to a line that a kill tore."""
    file = path / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not all(type(value) in (int, float) for value in row.values()):
            break
        if type(row.get("step")) is not int:
            break
        rows.append(row)
    return rows


def learning_curve(rows: list[dict[str, Any]]) -> dict[int, float]:
    """What each evaluation gave, by step: the normalised score where there is one, else the mean return."""
    scored = (row for row in rows if "score/return_mean" in row)
    return {row["step"]: row.get("score/normalized", row["score/return_mean"]) for row in scored}


def best_step(curve: Mapping[int, float]) -> int | None:
    """The first step of the curve at its highest point."""
    return max(curve, key=lambda step: (curve[step], -step), default=None)
