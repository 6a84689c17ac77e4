"""An exported policy acts as the agent does, is not written if it does not, and is played without torch."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_value_guided import guided
from toys import BACKBONES, new_agent, recorded

import export
import play
from agents import DecisionTransformer
from agents.one_step import OneStepPolicy
from envs.tasks import Task
from export import ExportError
from train_offline import main as train

ROOT = Path(__file__).resolve().parents[1]


def quick(name: str, layout: str, mode: str, format: str) -> bool:
    return (layout, mode) == ("merged", "carried") and (format == "onnx" or name == "min_gru")


EVERY_MODE = [
    pytest.param(*one, marks=[] if quick(*one) else pytest.mark.slow)
    for one in itertools.product(BACKBONES, ("merged", "interleaved"), ("carried", "window"), ("onnx", "torch"))
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The tracer logs every node it makes, which takes ten times as long as making it."""
    logging.disable(logging.DEBUG)
    yield
    logging.disable(logging.NOTSET)


def task_without_environment(agent: DecisionTransformer, num_steps: int = 50) -> Task:
    dataset = {"id": "toy", "sha256": "", "recorded_in": None, "obs_dim": 4, "notes": []}
    returns = {"num_episodes": 1, "num_steps": 1, "mean_return": 1.0, "percentile_90_return": 1.0, "best_return": 1.0}
    histogram = {"return_histogram": {"edges": [0.0, 1.0], "counts": [1]}}
    return Task(
        env_id=None,
        env_kwargs={},
        env_declared=False,
        reference=None,
        target_return=9.0,
        max_episode_steps=num_steps,
        actions=agent.describe()["actions"],
        dataset={**dataset, **returns, **histogram},
    )


def exported(agent: DecisionTransformer, format: str = "onnx", num_envs: int = 1) -> export.Exported:
    task = task_without_environment(agent)
    return export.export(agent.eval(), task, format=format, num_envs=num_envs, target_return=9.0, checkpoint="last")


def largest_difference(agent: DecisionTransformer, found: export.Exported, format: str, num_envs: int) -> float:
    """Over two episodes of rows that observe and earn different things."""
    rng, run, difference = np.random.default_rng(3), export.runner(found.data, format), 0.0
    for _ in range(2):
        agent.reset(num_envs, 9.0)
        state, rewards = play.first_state(found.about), np.zeros(num_envs, np.float32)
        for _ in range(40):
            observations = (5 + 3 * rng.standard_normal((num_envs, 4))).astype(np.float32)
            actions, *state = run([observations, rewards, *state])
            difference = max(difference, float(np.abs(actions - agent.act(observations, rewards)).max()))
            rewards = rng.standard_normal(num_envs).astype(np.float32)
    return difference


@pytest.mark.parametrize(("name", "layout", "mode", "format"), EVERY_MODE)
def test_every_backbone_acts_alike_once_exported(name: str, layout: str, mode: str, format: str) -> None:
    agent = new_agent(recorded(), name, token_layout=layout, acting_mode=mode, max_timesteps=30)
    found = exported(agent, format, num_envs=3)
    assert found.difference < 1e-5
    assert largest_difference(agent, found, format, 3) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [{"condition_on_return": False, "action_loss": "likelihood"}, {"max_timesteps": 20}, {"previous_action": False}],
    ids=str,
)
def test_agents_of_every_kind_act_alike_once_exported(settings: dict[str, Any]) -> None:
    for episodes in (recorded(), recorded(discrete=True)):
        agent = new_agent(episodes, **settings)
        assert largest_difference(agent, exported(agent, num_envs=2), "onnx", 2) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"candidate_returns": [0.5, 1.0, 2.0]}], ids=str)
@pytest.mark.parametrize("mode", ["carried", "window"])
def test_agents_whose_critics_choose_act_alike_once_exported(settings: dict[str, Any], mode: str) -> None:
    agent = guided(recorded(), acting_mode=mode, **settings)
    for network in agent.critics.slow_q:
        torch.nn.init.normal_(network[-1].weight)
    assert largest_difference(agent, exported(agent, num_envs=2), "onnx", 2) < 1e-5


@pytest.mark.fault("an exported policy that acts otherwise than the agent")
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_policy_that_acts_otherwise_is_not_written(
    cartpole_run: Path, format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decide = OneStepPolicy._decide
    monkeypatch.setattr(OneStepPolicy, "_decide", lambda self, y: 1 - decide(self, y))
    with pytest.raises(SystemExit) as exit:
        export.main([f"run_dir={cartpole_run}", f"format={format}"])
    assert exit.value.code == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not [*cartpole_run.glob("policy*"), *cartpole_run.glob(".policy*")]


@pytest.mark.fault("an exported policy that acts otherwise than the agent")
def test_a_memory_that_drifts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    step = OneStepPolicy._step

    def drifting(self: OneStepPolicy, token: torch.Tensor, memory: list[torch.Tensor]) -> Any:
        y, state = step(self, token, memory)
        return y, [1.002 * part if part.is_floating_point() else part for part in state]

    monkeypatch.setattr(OneStepPolicy, "_step", drifting)
    with pytest.raises(ExportError, match="nothing was written: fed what the agent saw"):
        exported(new_agent(recorded()), "torch")


@pytest.fixture(scope="module")
def cartpole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on what random actions did in CartPole."""
    from collect import main as collect

    path = tmp_path_factory.mktemp("export")
    collect(["env_id=CartPole-v1", "policy=random", "num_steps=500", f"out={path}"])
    settings = "backbone=min_gru backbone.hidden_size=16 train.num_steps=3 train.evaluate_every=0"
    task = "task=any env_id=CartPole-v1 target_return=50 evaluate.num_episodes=2 num_threads=1"
    paths = [f"dataset={path / 'CartPole-v1-random.hdf5'}", f"run_dir={path / 'run'}"]
    train([*settings.split(), *task.split(), *paths])
    return path / "run"


def test_an_exported_policy_earns_what_its_agent_earns_and_needs_no_torch(cartpole_run: Path) -> None:
    from evaluate import main as evaluate

    out = cartpole_run.parent / "exported" / "policy.onnx"
    export.main([f"run_dir={cartpole_run}", f"out={out}", "num_envs=3"])
    without_torch = (
        f"import sys; sys.modules['torch'] = None; from play import main; "
        f"main(['policy={out}', 'num_episodes=7', 'target_return=40'])"
    )
    done = subprocess.run([sys.executable, "-c", without_torch], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    evaluate([f"run_dir={cartpole_run}", "num_episodes=7", "target_return=40", "num_threads=1"])
    played = json.loads((out.parent / "policy.played.json").read_bytes())
    evaluated = json.loads((cartpole_run / "evaluation.json").read_bytes())
    assert played["returns"] == evaluated["returns"]
    assert played["protocol"] == evaluated["protocol"]


def test_the_control_loop_acts_as_the_agent_does(cartpole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import control_loop

    out = cartpole_run.parent / "looped.onnx"
    export.main([f"run_dir={cartpole_run}", f"out={out}"])
    policy, theirs = control_loop.Policy(str(out)), play.OnnxPolicy(out.read_bytes())
    theirs.reset(1, 50.0)
    commanded: list[int] = []
    monkeypatch.setattr(control_loop, "send", commanded.append)
    observed = np.random.default_rng(0).standard_normal((21, 4)).astype(np.float32)
    sensed = iter([(row, 1.0) for row in observed])
    monkeypatch.setattr(control_loop, "read_sensors", lambda obs_dim: next(sensed))
    times = control_loop.control(policy, hertz=1000.0, num_steps=20)
    assert commanded == [theirs.act(row[None], np.array([1.0]))[0] for row in observed[1:]]
    assert times["late"].min() >= 0


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "expected a policy that export.py wrote"), (b"\x08\x07no model", "expected a policy that export.py wrote")],
)
def test_a_file_that_is_no_policy_is_refused(
    tmp_path: Path, data: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.onnx").write_bytes(data)
    with pytest.raises(SystemExit) as exit:
        play.main([f"policy={tmp_path / 'policy.onnx'}"])
    assert exit.value.code == 1
    assert said in capsys.readouterr().err


def test_more_environments_than_it_was_exported_for_are_refused() -> None:
    policy = play.OnnxPolicy(exported(new_agent(recorded())).data)
    with pytest.raises(play.PolicyError, match="exported for 1 environments at once; got 2"):
        policy.reset(2, 1.0)
