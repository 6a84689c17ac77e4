"""Every suite of data trains by one word, and is played where it can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WriteD4RL, d4rl_columns

import train_offline
from envs.d4rl_catalog import d4rl_files
from envs.environments import TaskError, make_environment
from envs.episodes import Source
from envs.recording import RandomPolicy, record
from envs.writing import write_d4rl, write_minari

TINY = [
    "task=any",
    "train.num_steps=3",
    "train.batch_size=4",
    "evaluate.num_episodes=2",
    "evaluate.num_curve_episodes=1",
    "backbone.hidden_size=16",
    "num_threads=1",
]
# A D4RL name of each suite, columns of an observation and of an action, and whether it is played
PLAYED = [("hopper-medium-replay-v0", 11, 3), ("ant-expert-v2", 111, 8)]
ONLY_LEARNT_FROM = [
    ("antmaze-umaze-v2", 29, 8),
    ("maze2d-medium-v1", 4, 2),
    ("kitchen-partial-v0", 60, 9),
    ("bullet-walker2d-random-v0", 22, 6),
    ("carla-lane-v0", 48 * 48, 2),
]
ADROIT = [("pen-human-v1", 45, 24), ("hammer-human-v1", 46, 26), ("door-human-v1", 39, 28)]


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def train(*overrides: str) -> dict[str, Any]:
    train_offline.main([*TINY, "run_dir=run", *overrides])
    results: dict[str, Any] = json.loads(Path("run/results.json").read_text())
    return results


def suite_file(write_d4rl: WriteD4RL, name: str, obs_dim: int, action_dim: int) -> Path:
    """A small file in the exact layout of that dataset: precision, shapes and flags."""
    columns = d4rl_columns([9, 12, 7, 11], obs_dim=obs_dim, action_dim=action_dim, rest=3)
    if name.startswith("ant-"):
        columns["observations"][:, 27:] = 0
        columns["next_observations"][:, 27:] = 0
    if "v2" not in name or name.startswith("antmaze"):
        del columns["next_observations"]
    if "replay" in name:
        columns = {key: column.astype(np.float64) for key, column in columns.items()}
    if name.startswith(("maze2d", "antmaze")):
        columns["timeouts"] |= columns["terminals"].astype(np.bool_)
        columns["terminals"] = np.zeros_like(columns["timeouts"])
        columns["rewards"] = np.float32(columns["timeouts"])[:, None] if "maze2d" in name else columns["rewards"]
    return write_d4rl(columns, d4rl_files()[name].file_name)


@pytest.mark.parametrize(("name", "obs_dim", "action_dim"), PLAYED)
def test_a_suite_with_an_environment_trains_and_is_played(
    write_d4rl: WriteD4RL, name: str, obs_dim: int, action_dim: int
) -> None:
    results = train(f"dataset={suite_file(write_d4rl, name, obs_dim, action_dim)}")
    assert len(results["returns"]) == 2
    assert results["provenance"]["dataset"]["id"] == name
    assert np.isfinite(results["score"]["mean"])
    assert "D4RL" in results["provenance"]["reference"]["source"]


@pytest.mark.parametrize(("name", "obs_dim", "action_dim"), ONLY_LEARNT_FROM)
def test_a_suite_without_an_environment_trains_and_says_why_it_is_not_played(
    write_d4rl: WriteD4RL, capsys: pytest.CaptureFixture[str], name: str, obs_dim: int, action_dim: int
) -> None:
    path = suite_file(write_d4rl, name, obs_dim, action_dim)
    with pytest.raises(SystemExit):
        train(f"dataset={path}")
    assert "evaluate.num_episodes=0" in capsys.readouterr().err
    results = train(f"dataset={path}", "evaluate.num_episodes=0")
    assert (results["score"]["mean"], results["score"]["reason"]) == (None, "not evaluated")
    assert results["provenance"]["env_id"] is None
    assert results["provenance"]["actions"] == {"low": [-1.0] * action_dim, "high": [1.0] * action_dim}
    assert results["provenance"]["dataset"]["notes"][-1].startswith(f"not played: {name} has no environment here")


def test_discrete_control_trains_and_is_played() -> None:
    env = make_environment("CartPole-v1")
    source = Source("mine", "", "CartPole-v1")
    episodes = record(RandomPolicy(env.action_space, 0), env, num_steps=100, seed=0, source=source)
    write_minari(episodes, "own/cartpole-v0")
    results = train("dataset=own/cartpole-v0")
    assert results["provenance"]["actions"] == {"num_actions": 2}
    assert min(results["lengths"]) > 1
    assert (results["score"]["mean"], results["score"]["reason"]) == (None, "no reference scores for this environment")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("env_id", "of"),
    [
        ("AntMaze_UMaze-v4", "success"),
        ("PointMaze_UMaze-v3", "success"),
        ("AdroitHandPen-v1", "return"),
        ("AdroitHandDoor-v1", "return"),
        ("MiniGrid-FourRooms-v0", None),
    ],
)
@pytest.mark.parametrize("format", ["d4rl", "minari"])
def test_environments_of_other_packages_train_and_are_played(env_id: str, of: str | None, format: str) -> None:
    pytest.importorskip("minigrid" if "MiniGrid" in env_id else "gymnasium_robotics")
    env = make_environment(env_id)
    recorded = record(RandomPolicy(env.action_space, 0), env, num_steps=100, seed=0, source=Source("mine", "", env_id))
    if format == "d4rl":
        write_d4rl(recorded, Path("mine.hdf5"))
    else:
        write_minari(recorded, "own/mine-v0")
    results = train(f"dataset={'mine.hdf5' if format == 'd4rl' else 'own/mine-v0'}", "evaluate.num_envs=2")
    reference = results["provenance"]["reference"]
    assert (None if reference is None else reference["of"]) == of
    assert (results["success_rate"] is None) == (of is None)
    if of == "success":
        assert results["score"]["mean"] == 100 * results["success_rate"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "obs_dim", "action_dim"), ADROIT)
def test_adroit_trains_and_is_played_in_the_port(
    write_d4rl: WriteD4RL, name: str, obs_dim: int, action_dim: int
) -> None:
    pytest.importorskip("gymnasium_robotics")
    results = train(f"dataset={suite_file(write_d4rl, name, obs_dim, action_dim)}")
    assert results["provenance"]["env_id"].startswith("AdroitHand")
    assert any("not those of D4RL's tables" in note for note in results["provenance"]["dataset"]["notes"])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_kitchen_names_the_mujoco_it_needs() -> None:
    pytest.importorskip("gymnasium_robotics")
    from importlib.metadata import version

    if version("mujoco") <= "3.5.0":
        assert make_environment("FrankaKitchen-v1") is not None
    else:
        with pytest.raises(TaskError, match=r"works with mujoco==3\.5\.0.*evaluate\.num_episodes=0 trains"):
            make_environment("FrankaKitchen-v1")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_minaris_own_recording_of_a_maze_trains_and_is_played() -> None:
    """A Dict of observations, as DataCollector stores it, gives the very vector the environment gives here."""
    gymnasium_robotics = pytest.importorskip("gymnasium_robotics")
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    from envs import load_episodes

    gymnasium.register_envs(gymnasium_robotics)
    raw, flat = gymnasium.make("PointMaze_UMaze-v3", max_episode_steps=20), make_environment("PointMaze_UMaze-v3")
    observations, actions = [raw.reset(seed=3)[0]], []
    raw.action_space.seed(0)
    for _ in range(20):
        actions.append(raw.action_space.sample())
        observations.append(raw.step(actions[-1])[0])
    ends = [False] * 19 + [True]
    buffer = EpisodeBuffer(
        observations={key: np.stack([one[key] for one in observations]) for key in observations[0]},
        actions=np.stack(actions),
        rewards=[0.0] * 20,
        terminations=[False] * 20,
        truncations=ends,
    )
    minari.create_dataset_from_buffers("own/maze-v0", [buffer], env=raw)
    recorded = load_episodes("own/maze-v0")
    vector, _ = flat.reset(seed=3)
    for step, action in enumerate(actions):
        np.testing.assert_allclose(recorded.observations[step], vector, rtol=1e-6)
        vector = flat.step(action)[0]
    assert len(train("dataset=own/maze-v0")["returns"]) == 2
