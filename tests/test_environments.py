"""Environments are made by id, told apart by what they need, and checked against recorded data."""

from __future__ import annotations

import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete

from envs import Episode, Episodes, Source
from envs.environments import TaskError, check_environment, make_environment, physics_version


def make_episodes(obs_dim: int, action_dim: int | None, env_id: str | None = None) -> Episodes:
    """One episode of two steps; action_dim None: discrete actions 0 and 2."""
    actions = np.array([0, 2]) if action_dim is None else np.zeros((2, action_dim))
    episode = Episode(np.zeros((2, obs_dim)), actions, np.zeros(2), terminated=True, truncated=False)  # type: ignore[arg-type]
    return Episodes.from_episodes([episode], Source("mine", "", env_id))


class Nested(gymnasium.Env[Any, Any]):
    """Observations that are not one vector."""

    observation_space = Dict({"goal": Discrete(3), "image": Box(-1, 1, (2, 2), np.float32)})
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return {"goal": np.int64(1), "image": np.eye(2, dtype=np.float32)}, {}


@pytest.fixture
def nested(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of the nested environment, registered for one test."""
    entry_point: Any = Nested
    monkeypatch.setitem(gymnasium.registry, "Nested-v0", EnvSpec("Nested-v0", entry_point))
    return "Nested-v0"


def test_an_outdated_version_is_made_without_a_warning_and_later_warnings_still_come() -> None:
    make_environment("Hopper-v4").close()  # pytest makes warnings errors
    with pytest.warns(DeprecationWarning, match="out of date"):
        gymnasium.make("Hopper-v4").close()


def test_keywords_reach_the_environment() -> None:
    env = make_environment("Pendulum-v1", {"g": 5.0, "max_episode_steps": 7})
    assert getattr(env.unwrapped, "g", None) == 5.0
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7


def test_nested_observations_become_one_vector(nested: str) -> None:
    env = make_environment(nested)
    observation, _ = env.reset()
    assert observation.tolist() == [0, 1, 0, 1, 0, 0, 1]
    assert env.observation_space.shape == (7,)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Hoper-v5", "registered with gymnasium; got 'Hoper-v5'. Did you mean Hopper-v5"),
        ("Hopper", "registered with gymnasium; got 'Hopper'. Did you mean Hopper-v"),
        ("qqqq", "named module:id"),
        ("Hopper-v2", "needs mujoco-py, which is gone: use env_id=Hopper-v4, the same physics, or Hopper-v5"),
        ("Walker2d-v3", "use env_id=Walker2d-v4"),
        ("no_such_module:Hopper-v5", "cannot be made (ModuleNotFoundError"),
    ],
)
def test_an_id_without_an_environment_gets_advice(env_id: str, message: str) -> None:
    with pytest.raises(TaskError, match=re.escape(message)):
        make_environment(env_id)


def test_an_environment_that_cannot_start_is_named_with_its_keywords() -> None:
    with pytest.raises(TaskError, match=r"Pendulum-v1 cannot be made \(TypeError: .*'gravity': 3"):
        make_environment("Pendulum-v1", {"gravity": 3})


def test_near_matches_are_ids_that_can_be_made() -> None:
    with pytest.raises(TaskError) as caught:
        make_environment("HalfCheeta-v3")
    assert "HalfCheetah-v5" in str(caught.value)
    assert "HalfCheetah-v3" not in str(caught.value).replace("HalfCheeta-v3", "")


@pytest.mark.parametrize(
    ("env_id", "obs_dim", "action_dim"),
    [("Hopper-v5", 11, 3), ("Walker2d-v4", 17, 6), ("Ant-v4", 27, 8), ("Acrobot-v1", 6, None)],
)
def test_data_that_fits_passes(env_id: str, obs_dim: int, action_dim: int | None) -> None:
    env = make_environment(env_id)
    check_environment(env, make_episodes(obs_dim, action_dim))
    env.close()


@pytest.mark.fault("data that does not fit its environment")
@pytest.mark.parametrize(
    ("env_id", "episodes", "message"),
    [
        ("Pendulum-v1", make_episodes(11, 3), "11 observation columns, Pendulum-v1 gives 3. env_id=Hopper-v5 would do"),
        ("Pendulum-v1", make_episodes(27, 8, "Ant-v4"), "Pendulum-v1 gives 3. env_id=Ant-v4 would do"),
        ("Pendulum-v1", make_episodes(5, 5), "the data has 5 observation columns, Pendulum-v1 gives 3.$"),
        ("Pendulum-v1", make_episodes(3, 2), r"the data has 2 action columns, Pendulum-v1 takes Box\("),
        ("Pendulum-v1", make_episodes(3, None), r"the data has discrete actions, Pendulum-v1 takes Box\("),
        ("CartPole-v1", make_episodes(4, 1), r"the data has 1 action columns, CartPole-v1 takes Discrete\(2\)"),
        ("CartPole-v1", make_episodes(4, None), "the data has 3 discrete actions, CartPole-v1 takes 2"),
    ],
)
def test_data_that_does_not_fit_is_told_both_sides(env_id: str, episodes: Episodes, message: str) -> None:
    env = make_environment(env_id)
    with pytest.raises(TaskError, match=message):
        check_environment(env, episodes)
    env.close()


def test_the_physics_is_named_with_its_versions() -> None:
    assert physics_version() == f"gymnasium {version('gymnasium')}, mujoco {version('mujoco')}"


def test_making_an_environment_leaves_the_warning_filters_as_they_were() -> None:
    before = list(warnings.filters)
    make_environment("Pendulum-v1").close()
    assert warnings.filters == before


def test_mujocos_complaint_about_gymnasiums_own_model_is_not_shown(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_environment("HalfCheetah-v5").close()
    assert "settotalmass" not in "".join(capfd.readouterr())
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)
    monkeypatch.setattr(gymnasium, "registry", {k: v for k, v in gymnasium.registry.items() if "MiniGrid" not in k})
    with pytest.raises(TaskError, match=r'MiniGrid-Empty-5x5-v0 needs minigrid.*pip install "minrnn-rl\[minigrid\]"'):
        make_environment("MiniGrid-Empty-5x5-v0")
