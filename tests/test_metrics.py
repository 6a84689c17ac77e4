"""The log of a run: what a resumed run keeps of it, and which step was the best."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metrics import MetricsLog, best_step, read_metrics


def logged(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def tensorboard_steps(path: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def score(value: float | None, returns: tuple[float, ...] = (1.0, 2.0)) -> dict[str, Any]:
    return {"returns": list(returns), "score": {"mean": value}}


@pytest.mark.fault("what is logged across a resume: no step twice, none backward, in JSON lines and in TensorBoard")
@pytest.mark.parametrize("resumed_at", [0, 2, 4])
def test_a_resumed_log_repeats_nothing(tmp_path: Path, resumed_at: int) -> None:
    for first_step in (0, resumed_at):
        with MetricsLog(tmp_path, first_step) as log:
            for step in range(first_step + 1, 6):
                log.write(step, "train", {"loss": 1.0 / step})
                if step in (2, 4):
                    log.write_score(step, score(float(step)))
                    log.write_score(step, score(float(step)))  # a run resumed at its last step evaluates it again
    with MetricsLog(tmp_path, 4) as log:
        log.write_score(4, score(4.0))
        log.write(5, "train", {"loss": 0.2})
    assert logged(tmp_path) == [1, 2, 2, 3, 4, 4, 5]
    assert tensorboard_steps(tmp_path, "train/loss") == [1, 2, 3, 4, 5]
    assert tensorboard_steps(tmp_path, "score/normalized") == [2, 4]


@pytest.mark.fault("a kill as a log is opened again")
def test_a_log_opened_again_is_never_shorter_on_disk(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, "train", {"loss": 1.0})
        log.write(2, "train", {"loss": 1.0})
    child = os.fork()
    if child == 0:
        MetricsLog(tmp_path, 2)
        os._exit(9)
    os.waitpid(child, 0)
    assert logged(tmp_path) == [1, 2]


@pytest.mark.parametrize("torn", ['{"step": 3, "tr', "[]\n", '{"step": null}\n', "\xff\n"])
def test_a_log_is_read_up_to_a_line_that_is_torn(tmp_path: Path, torn: str) -> None:
    (tmp_path / "metrics.jsonl").write_bytes((json.dumps({"step": 1}) + "\n" + torn).encode("latin-1"))
    assert logged(tmp_path) == [1]


def test_the_best_step_is_the_first_at_the_highest_point(tmp_path: Path) -> None:
    assert best_step({}) is None
    assert best_step({5: 1.0, 10: 3.0, 15: 3.0}) == 10
    with MetricsLog(tmp_path, 0) as log:
        assert log.best_step is None
        log.write_score(5, score(None))
        assert log.best_step == 5
        log.write_score(10, {"returns": [], "score": {"mean": None}})
        assert log.best_step == 5
        log.write_score(15, score(1.6))
    with MetricsLog(tmp_path, 15) as log:
        assert log.best_step == 15
    with MetricsLog(tmp_path, 14) as log:
        assert log.best_step == 5


def test_any_value_of_a_config_is_a_hyper_parameter(tmp_path: Path) -> None:
    config = {"train": {"num_steps": 3}, "columns": [0, 1], "seed": 0, "rate": 0.1, "name": "x", "dataset": None}
    with MetricsLog(tmp_path, 0) as log:
        log.write_results(config, score(None))
    assert (tmp_path / "tensorboard" / "hparams").is_dir()
