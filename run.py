"""A run directory: one config, one lock, its checkpoints, its log and its results.

RUN/config.json  task.json  run.lock  checkpoints/  metrics.jsonl  tensorboard/  results.json  learning_curve.png
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from config import PLACE_KEYS, differing_keys, dotted_keys

if TYPE_CHECKING:
    from agents.learner import Learner
    from envs.tasks import Task

CHECKPOINTS_KEPT = 2


class RunError(ValueError):
    """A run that cannot start or go on. The message is for the user."""

    for_user = True


class RunDirectory:
    """The directory for the run of this config; refuses when another live run, or another config, is in there."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self._config = {key: value for key, value in config.items() if key not in PLACE_KEYS}
        self._lock = FileLock(path / "run.lock", timeout=0)

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise RunError(f"another run is live in {self.path}: wait for it, or choose another run_dir") from None
        except OSError as error:
            raise RunError(f"cannot write to run_dir {self.path}: {error}") from error
        try:
            self._check_config()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()

    @property
    def results(self) -> dict[str, Any] | None:
        """What a finished run reported; None while it is not finished."""
        path = self.path / "results.json"
        return read_json(path) if path.is_file() else None

    def save(self, learner: Learner, num_updates: int) -> None:
        """Writes the checkpoint after this many updates and drops all but the newest few."""
        from agents.checkpoint import save_checkpoint

        weights = learner.acting_agent.state_dict()
        spec = learner.acting_agent.describe()
        try:
            save_checkpoint(self.path, num_updates, spec, weights, learner.state_dict(), keep=CHECKPOINTS_KEPT)
        except OSError as error:
            raise RunError(
                f"the checkpoint of step {num_updates} could not be written to {self.path} ({error}). Older ones are "
                "whole: make room or access, then give the same command again"
            ) from error

    def restore(self, learner: Learner) -> int:
        """Puts the learner where the newest checkpoint left it; gives its number of updates, 0 for a new run."""
        from agents.checkpoint import newest_whole_checkpoint, remove_litter

        remove_litter(self.path)
        found, damaged = newest_whole_checkpoint(self.path)
        for complaint in damaged:
            print(f"not resumed from: {complaint}", file=sys.stderr)
        if found is None and damaged:
            raise RunError(f"no checkpoint in {self.path} is whole; choose another run_dir, or remove it to start anew")
        if found is None:
            return 0
        files = found
        num_updates: int = files["training.json"]["step"]
        learner.load_state_dict(files["training.safetensors"], files["agent.safetensors"], num_updates)
        learner.acting_agent.acting_mode = files["agent.json"]["settings"]["acting_mode"]
        print(f"{self.path}: going on after step {num_updates}.")
        return num_updates

    def begin(self, task: Task) -> None:
        """Makes the directory this run's own; not before data and environment were found good."""
        write_json(self.path / "task.json", task.describe())
        write_json(self.path / "config.json", self._config)

    def finish(self, results: dict[str, Any]) -> None:
        write_json(self.path / "results.json", results)

    def _check_config(self) -> None:
        path = self.path / "config.json"
        if path.exists() and (theirs := read_json(path)) != self._config:
            differing = "\n  ".join(differing_keys(theirs, self._config))
            raise RunError(f"{self.path} holds a run of another config; choose another run_dir:\n  {differing}")


class MetricsLog:
    """What was measured after which gradient step: a line of JSON each, and the same numbers in TensorBoard.

    Opened at first_step it forgets what was logged after that step, so a resumed run repeats none.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        kept = [row for row in read_metrics(path) if row["step"] <= first_step]
        self._file = (path / "metrics.jsonl").open("w", encoding="utf-8")
        self._file.writelines(json.dumps(row) + "\n" for row in kept)
        purge_step = first_step + 1 if first_step else None
        self._tensorboard = SummaryWriter(str(path / "tensorboard"), purge_step=purge_step)  # type: ignore[no-untyped-call]

    def write(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """Logs values measured after this many gradient steps as GROUP/NAME; None is not logged."""
        named = {f"{group}/{name}": value for name, value in values.items() if value is not None}
        self._file.write(json.dumps({"step": step, **named}) + "\n")
        self._file.flush()
        for name, value in named.items():
            self._tensorboard.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def write_score(self, step: int, results: Mapping[str, Any]) -> None:
        """Logs what an evaluation after this many gradient steps gave."""
        returns, score = results["returns"], results["score"]
        if returns:
            spread = {"return_mean": statistics.fmean(returns), "return_std": statistics.pstdev(returns)}
            self.write(step, "score", {**spread, "normalized": score["mean"]})

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
            parameters = {key: str(value) if value is None else value for key, value in dotted_keys(config)}
            self._tensorboard.add_hparams(parameters, outcome, run_name="hparams")  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._tensorboard.close()  # type: ignore[no-untyped-call]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged rows of a run directory, oldest first, up to a line that a kill tore."""
    file = path / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def is_due(step: int, every: int, last_step: int | None = None) -> bool:
    """Whether something that happens every so many steps, and after the last one, happens now; never for 0."""
    return (every > 0 and step % every == 0) or step == last_step


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}; is this a run directory?") from error


def write_json(path: Path, value: Any) -> None:
    """Writes beside the final name and renames: the file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
