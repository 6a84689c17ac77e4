"""What a run shows of its speed, and where its time went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from config import run_directory
from config_overrides import Composer
from metrics import read_metrics
from profiling import SKIPPED_STEPS, Pace, traced
from train_offline import main as train

SMALL = "task=hopper_demo backbone.hidden_size=16 backbone.num_layers=1 train.batch_size=4 agent.context_length=10"
SHORT = "train.num_steps=8 train.log_every=2 evaluate.num_episodes=0 num_threads=1"


def test_a_trace_holds_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    with traced(tmp_path / "trace.json", 2) as step:
        for _ in range(SKIPPED_STEPS + 2):
            torch.ones(3).sum()
            step()
    events = json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep")}
    assert len(steps) == 2
    assert any("aten::sum" in event.get("name", "") for event in events)


def test_no_trace_is_made_unasked(tmp_path: Path) -> None:
    with traced(tmp_path / "trace.json", 0) as step:
        step()
    assert not [*tmp_path.iterdir()]


def test_the_pace_is_that_since_it_was_last_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    pace = Pace(100)
    assert pace.measure(150, torch.device("cpu"))["steps_per_second"] == 25.0
    found = pace.measure(160, torch.device("cpu"))
    assert found["steps_per_second"] == 10.0
    assert found["memory_mb"] is None or found["memory_mb"] > 10
    assert found["gpu_memory_mb"] is None


def test_speed_is_shown_beside_the_run_and_changes_nothing_of_it(tmp_path: Path) -> None:
    words = f"{SMALL} {SHORT}".split()
    for name, more in (("plain", []), ("profiled", ["profile_steps=2"])):
        train([*words, *more, f"run_dir={tmp_path / name}"])
    assert (tmp_path / "profiled" / "trace_0.json").is_file()
    assert read_metrics(tmp_path / "plain") == read_metrics(tmp_path / "profiled")
    events = EventAccumulator(str(tmp_path / "plain" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("speed/steps_per_second")] == [2, 4, 6, 8]
    assert events.Scalars("speed/memory_mb")[0].value > 10
    composer = Composer("train_offline")
    assert run_directory(composer.config(words)) == run_directory(composer.config([*words, "profile_steps=2"]))
