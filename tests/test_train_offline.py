"""The entry scripts themselves: every backbone and layout by one word, resume, refusals."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from toys import BACKBONES

import evaluate
import train_offline
from agents import load_agent
from minrnn import MIXERS
from run import best_checkpoint

SMALL = [
    "train.num_steps=20",
    "train.batch_size=4",
    "train.log_every=5",
    "train.checkpoint_every=10",
    "train.evaluate_every=10",
    "evaluate.num_episodes=2",
    "evaluate.num_curve_episodes=1",
    "evaluate.num_envs=2",
    "backbone.hidden_size=16",
    "num_threads=1",
]


def run(tmp_path: Path, *overrides: str, name: str = "run") -> Path:
    train_offline.main([*SMALL, f"run_dir={tmp_path / name}", *overrides])
    return tmp_path / name


@pytest.fixture
def hopper_file(tmp_path: Path) -> Path:
    """Three random episodes in D4RL's layout, with Hopper's widths."""
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((90, 11)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (90, 3)).astype(np.float32)
        file["rewards"] = rng.standard_normal(90).astype(np.float32)
        file["terminals"] = np.arange(90) % 30 == 29
        file["timeouts"] = np.zeros(90, dtype=bool)
    return path


@pytest.mark.parametrize("layout", ["merged", "interleaved"])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_a_backbone_and_a_layout_are_swapped_by_one_word(tmp_path: Path, backbone: str, layout: str) -> None:
    agent = "ensemble" if layout == "merged" else "decision_transformer"
    path = run(tmp_path, f"agent={agent}", f"backbone={backbone}", f"agent.token_layout={layout}")
    results = json.loads((path / "results.json").read_text())
    assert len(results["returns"]) == results["score"]["n"] == 2
    assert results["score"]["ci_low"] <= results["score"]["mean"] <= results["score"]["ci_high"]
    assert results["provenance"]["env_id"] == "Hopper-v5"
    assert (path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert load_agent(path).token_layout == layout


def test_a_run_stopped_and_resumed_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path, name="whole")
    from agents.learner import Learner

    update = Learner.update

    def stop_at_13(self: Learner, step: int) -> object:
        if step == 13:
            raise KeyboardInterrupt
        return update(self, step)

    monkeypatch.setattr(Learner, "update", stop_at_13)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, name="cut")
    monkeypatch.setattr(Learner, "update", update)
    cut = run(tmp_path, name="cut")
    last = "checkpoints/step_00000020/manifest.json"
    assert (cut / last).read_text() == (whole / last).read_text()
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert (
        json.loads((cut / "results.json").read_text())["returns"]
        == json.loads((whole / "results.json").read_text())["returns"]
    )


@pytest.mark.fault("another config in a directory, and a run that is finished")
def test_a_finished_run_says_so_and_another_config_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path)
    before = (path / "results.json").read_bytes()
    run(tmp_path)
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "train.num_steps=21")
    assert stop.value.code == 1
    assert "train.num_steps" in capsys.readouterr().err
    assert (path / "results.json").read_bytes() == before


def test_a_finished_run_can_be_judged_again(tmp_path: Path) -> None:
    path = run(tmp_path)
    evaluate.main([f"run_dir={path}", "num_episodes=3", "target_return=500", "num_envs=2", "num_threads=1"])
    judged = json.loads((path / "evaluation.json").read_text())
    assert judged["protocol"]["target_return"] == 500
    assert not judged["protocol"]["target_declared_before_training"]
    assert len(judged["returns"]) == 3


class RunningMean(torch.nn.Module):
    """A mixer of ones own: the mean of all inputs so far, as README shows it."""

    def __init__(self, hidden_size: int, *, gain: float) -> None:
        super().__init__()
        self.output = torch.nn.Linear(hidden_size, hidden_size)
        self.gain = gain

    def forward(self, x: Any, state: Any = None, *, starts: Any = None) -> Any:
        outputs = []
        for t in range(x.shape[1]):
            if starts is not None and state is not None:
                state = torch.where(starts[:, t, None, None], 0.0, state)
            y, state = self.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def step(self, x: Any, state: Any = None) -> Any:
        total = torch.stack([x, torch.ones_like(x)]) if state is None else state.movedim(1, 0) + torch.stack([x, x**0])
        return self.output(self.gain * total[0] / total[1]), total.movedim(0, 1)


def test_a_backbone_of_ones_own_is_a_class_a_line_and_a_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "running_mean", RunningMean)
    folder = tmp_path / "configs" / "backbone"
    folder.mkdir(parents=True)
    text = "defaults:\n  - _stack\n  - _self_\n\nname: running_mean\nmixer:\n  gain: 1.0\n"
    (folder / "running_mean.yaml").write_text(text)
    path = run(tmp_path, "--config-dir", str(tmp_path / "configs"), "backbone=running_mean", "train.packed=true")
    assert json.loads((path / "results.json").read_text())["returns"]
    assert load_agent(path).spec["backbone"]["name"] == "running_mean"


def test_the_best_checkpoint_is_kept_and_can_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points, judge = [50.0, 90.0, 20.0, 10.0, 30.0, 5.0], evaluate.judge

    def judged(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        results = judge(*arguments, **keywords)
        return {**results, "score": {**results["score"], "mean": points.pop(0)}}

    monkeypatch.setattr(evaluate, "judge", judged)
    path = run(tmp_path, "train.evaluate_every=3", "train.num_steps=18", "train.checkpoint_every=5")
    kept = sorted(int(checkpoint.name.removeprefix("step_")) for checkpoint in path.glob("checkpoints/*"))
    assert kept == [6, 15, 18]  # the best, though none was due there; and the newest two
    assert load_agent(best_checkpoint(path)).describe() == load_agent(path / "checkpoints" / "step_00000006").describe()
    monkeypatch.setattr(evaluate, "judge", judge)
    evaluate.main([f"run_dir={path}", "num_episodes=1", "num_envs=1", "checkpoint=best", "num_threads=1"])
    assert json.loads((path / "evaluation.json").read_text())["protocol"]["checkpoint"] == "best"


def test_a_run_that_was_never_evaluated_has_no_best_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path, "train.evaluate_every=0", "evaluate.num_episodes=0")
    with pytest.raises(SystemExit):
        evaluate.main([f"run_dir={path}", "checkpoint=best"])
    assert "no checkpoint" in capsys.readouterr().err


def test_data_of_ones_own_trains_and_what_is_not_learnt_from_is_said(
    tmp_path: Path, hopper_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(hopper_file, "a") as file:
        file["rewards"][:] = np.repeat([1.0, 2.0, 9.0], 30)
    own = ("task=hopper", f"dataset={hopper_file}", "env_id=Hopper-v5")
    results = json.loads((run(tmp_path, *own) / "results.json").read_text())
    assert results["provenance"]["env_declared"]
    assert results["provenance"]["dataset"]["num_episodes"] == 3
    assert "learns from 1 of 3 episodes, 30 of 90 steps, those of returns from 270 on" in capsys.readouterr().err
    run(tmp_path, *own, "agent=behavior_cloning", name="all")
    assert "learns from" not in capsys.readouterr().err


def test_an_agent_that_is_asked_for_no_return_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(tmp_path, "target_return=3000")
    told = capsys.readouterr()
    assert "this agent is asked for no return" in told.err
    assert "no return asked for" in told.out
    assert json.loads((path / "results.json").read_text())["protocol"]["asks_for_return"] is False
    with pytest.raises(SystemExit) as stop:
        evaluate.main([f"run_dir={path}", "target_sweep=3"])
    assert stop.value.code == 2
    assert "target_sweep needs an agent that is asked for a return" in capsys.readouterr().err
    evaluate.main([f"run_dir={path}", "target_return=500", "num_episodes=1", "num_threads=1"])
    assert "target_return changes nothing" in capsys.readouterr().err


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *overrides, name="refused")
    assert stop.value.code == 1
    assert not (tmp_path / "refused" / "checkpoints").exists()
    return capsys.readouterr().err


@pytest.mark.fault("a dataset that is missing, foreign, cut or does not fit")
def test_bad_input_is_refused_before_the_first_step(
    tmp_path: Path, hopper_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no file at /nowhere.hdf5" in refused(tmp_path, capsys, "dataset=/nowhere.hdf5")
    assert "dataset must be" in refused(tmp_path, capsys, "dataset=nowhere")
    own = ("task=hopper", f"dataset={hopper_file}")
    assert "env_id" in refused(tmp_path, capsys, *own)
    assert "11 observation columns, HalfCheetah-v5 gives 17" in refused(tmp_path, capsys, *own, "env_id=HalfCheetah-v5")
    with h5py.File(hopper_file, "a") as file:
        file["rewards"][31] = np.nan
    assert "episode 1, step 1" in refused(tmp_path, capsys, *own, "env_id=Hopper-v5")
    hopper_file.write_bytes(hopper_file.read_bytes()[:3000])
    assert "download or copy it again" in refused(tmp_path, capsys, *own, "env_id=Hopper-v5")
    hopper_file.write_bytes(b"not data")
    assert "is not an HDF5 file" in refused(tmp_path, capsys, *own, "env_id=Hopper-v5")
    assert not (tmp_path / "refused").exists()


@pytest.mark.fault("two live runs in one directory")
def test_a_directory_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    (tmp_path / "refused").mkdir()
    with FileLock(tmp_path / "refused" / "run.lock"):
        assert "another run is live" in refused(tmp_path, capsys)
    refused(tmp_path, capsys, "dataset=/nowhere.hdf5")
    assert (tmp_path / "refused").exists()  # which was there before


@pytest.mark.fault("a GPU that is asked for and not there")
def test_a_device_that_is_not_there_is_said_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as exit_:
        train_offline.main([*SMALL, f"run_dir={tmp_path / 'run'}", "device=cuda:1"])
    assert exit_.value.code == 1
    assert "device=cuda:1 is not there; this machine and this build of torch offer cpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
