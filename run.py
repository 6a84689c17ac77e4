"""A run directory: one config, one lock, its checkpoints, its log and its results.

RUN/config.json  task.json  run.lock  checkpoints/  metrics.jsonl  tensorboard/  results.json  learning_curve.png
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from config import PLACE_KEYS, differing_keys

if TYPE_CHECKING:
    from agents.learner import Learner
    from envs.tasks import Task

CHECKPOINTS_KEPT = 2

# What results.json holds, besides the provenance of its scores, as envs.patterns writes it.
RESULTS: dict[str, Any] = {
    "score": {"mean": (float, None), "ci_low": (float, None), "ci_high": (float, None), "reason": (str, None)},
    "failures": [{"seed": int, "reason": str}],
    "success_rate": (float, None),
    "returns": [float],
    "lengths": [int],
    "protocol": {
        "checkpoint": str,
        "target_return": float,
        "target_declared_before_training": bool,
        "acting_mode": str,
        "num_episodes": int,
        "first_seed": int,
    },
    "seconds": {"evaluation": float},
}


class RunError(ValueError):
    """A run that cannot start or go on. The message is for the user."""

    for_user = True


class RunDirectory:
    """The directory for the run of this config; refuses when another live run, or another config, is in there.

    writes: of processes that train together one writes, and the others leave the directory alone.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._config = {key: value for key, value in config.items() if key not in PLACE_KEYS}
        self._lock = FileLock(path / "run.lock", timeout=0)

    def __enter__(self) -> Self:
        if not self.writes:
            return self
        self._is_new = not self.path.exists()
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
        if self.writes and self._is_new:
            self._remove_if_nothing_came_of_it()
        self._lock.release()

    @property
    def results(self) -> dict[str, Any] | None:
        """What a finished run reported; None while it is not finished."""
        path = self.path / "results.json"
        return read_results(path) if path.is_file() else None

    def save(self, learner: Learner, num_updates: int, best_step: int | None) -> None:
        """Writes the checkpoint after this many updates and drops all but the newest few and the best one."""
        from agents.checkpoint import save_checkpoint

        if not self.writes:
            return

        weights = learner.acting_agent.state_dict()
        spec = learner.acting_agent.describe()
        try:
            save_checkpoint(
                self.path,
                num_updates,
                spec,
                weights,
                learner.state_dict(),
                keep=CHECKPOINTS_KEPT,
                best_step=best_step,
            )
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
        try:
            learner.load_state_dict(files["training.safetensors"], files["agent.safetensors"], num_updates)
            learner.acting_agent.acting_mode = files["agent.json"]["settings"]["acting_mode"]
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(
                f"the checkpoint of step {num_updates} in {self.path} is whole, but not one of this run: {error}"
            ) from error
        print(f"{self.path}: going on after step {num_updates}.")
        return num_updates

    def begin(self, task: Task) -> None:
        """Makes the directory this run's own; not before data and environment were found good."""
        if not self.writes:
            return
        write_json(self.path / "task.json", task.describe())
        write_json(self.path / "config.json", self._config)

    def finish(self, results: dict[str, Any]) -> None:
        if self.writes:
            write_json(self.path / "results.json", results)

    def _remove_if_nothing_came_of_it(self) -> None:
        """Takes a directory with nothing but the lock away while that is held: who comes now finds it live, or none."""
        lock = self.path / "run.lock"
        with suppress(OSError):
            if [*self.path.iterdir()] == [lock]:
                lock.unlink()
                self.path.rmdir()

    def _check_config(self) -> None:
        path = self.path / "config.json"
        if path.exists() and (theirs := read_json(path)) != self._config:
            differing = "\n  ".join(differing_keys(theirs, self._config))
            raise RunError(f"{self.path} holds a run of another config; choose another run_dir:\n  {differing}")


def restore(run: RunDirectory, learner: Learner) -> int:
    """Has every process go on from the newest checkpoint, which the first one reads; gives its number of updates."""
    agent, ranks = learner.acting_agent, learner.ranks
    first_step = run.restore(learner) if run.writes else 0
    if ranks.size > 1:
        there = (first_step, learner.state_dict(), agent.state_dict(), agent.acting_mode)
        first_step, state, weights, acting_mode = ranks.first(there if run.writes else None)
        if first_step and not run.writes:
            learner.load_state_dict(state, weights, first_step)
            agent.acting_mode = acting_mode
    return first_step


def best_checkpoint(run_dir: Path) -> Path:
    """The checkpoint that did best while the run trained, which is a choice made by score."""
    from agents.checkpoint import checkpoint_of
    from metrics import best_step, learning_curve, read_metrics

    step = best_step(learning_curve(read_metrics(run_dir)))
    if step is None or not checkpoint_of(run_dir, step).is_dir():
        raise RunError(f"no checkpoint in {run_dir} is known as its best: it was not evaluated while it trained")
    return checkpoint_of(run_dir, step)


def is_due(step: int, every: int, last_step: int | None = None) -> bool:
    """Whether something that happens every so many steps, and after the last one, happens now; never for 0."""
    return (every > 0 and step % every == 0) or step == last_step


def read_results(path: Path) -> dict[str, Any]:
    """What `judge` reported, from results.json. Raises RunError unless all of it is there."""
    from envs.patterns import mismatch
    from envs.tasks import DESCRIPTION

    results: dict[str, Any] = read_json(path)
    if problem := mismatch(results, {**RESULTS, "provenance": {**DESCRIPTION, "physics": str}}):
        raise RunError(f"{path} is torn, or of another version: {problem}")
    return results


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}; is this a run directory?") from error


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, data: bytes) -> None:
    """Writes beside the final name and renames: the file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
