"""Readers and tasks: D4RL's quirks, Minari's data, the right environment, reference scores."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from envs import DataError, load_episodes
from envs.d4rl import find_d4rl, read_d4rl
from envs.environments import TaskError, make_environment
from envs.tasks import REFERENCE_SCORES, describe_task, environment_for, normalized_score, reference_scores


def write(path: Path, num_steps: int = 50, ends: tuple[int, ...] = (19, 39), **changes: Any) -> Path:
    """A file in D4RL's layout; a change of None leaves the key out."""
    rng = np.random.default_rng(0)
    flags = np.isin(np.arange(num_steps), ends)
    columns: dict[str, Any] = {
        "observations": rng.standard_normal((num_steps, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (num_steps, 3)).astype(np.float32),
        "rewards": np.ones(num_steps, np.float32),
        "terminals": flags,
        "timeouts": np.zeros(num_steps, bool),
    }
    with h5py.File(path, "w") as file:
        for key, value in {**columns, **changes}.items():
            if value is not None:
                file[key] = value
    return path


def test_a_partial_last_episode_is_dropped_and_that_is_said(tmp_path: Path) -> None:
    episodes = read_d4rl(write(tmp_path / "hopper_medium-v2.hdf5"))
    assert episodes.lengths.tolist() == [20, 20]
    assert episodes.terminated.all()
    assert "dropped the last 10 steps" in " ".join(episodes.source.notes)
    assert (episodes.source.env_id, episodes.source.dataset_id) == ("Hopper-v4", "hopper-medium-v2")


def test_double_precision_columns_of_one_and_flags_as_floats_are_read(tmp_path: Path) -> None:
    changed = {"rewards": np.ones((50, 1)), "observations": np.ones((50, 11)), "terminals": np.arange(50) % 25 == 24}
    changed["terminals"] = changed["terminals"].astype(np.float64)
    episodes = read_d4rl(write(tmp_path / "x.hdf5", **changed))
    assert (episodes.observations.dtype, episodes.rewards.shape) == (np.float32, (50,))
    assert episodes.returns.tolist() == [25.0, 25.0]


def test_both_flags_at_once_mean_the_time_limit(tmp_path: Path) -> None:
    both = np.isin(np.arange(50), (19, 49))
    episodes = read_d4rl(write(tmp_path / "x.hdf5", terminals=both, timeouts=both))
    assert episodes.truncated.all()
    assert not episodes.terminated.any()


def test_missing_timeouts_are_filled_in_at_the_time_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "hopper_medium.hdf5", num_steps=2500, ends=(499, 2499), timeouts=None)
    assert read_d4rl(path).lengths.tolist() == [500, 1000, 1000]


def test_ant_without_contact_forces_is_cut_to_27_columns(tmp_path: Path) -> None:
    observations = np.zeros((50, 111), np.float32)
    observations[:, :27] = 1
    path = write(tmp_path / "ant_medium-v2.hdf5", observations=observations, actions=np.zeros((50, 8), np.float32))
    assert read_d4rl(path).obs_dim == 27
    observations[3, 50] = 1
    with pytest.raises(DataError, match="contact forces"):
        read_d4rl(write(path, observations=observations, actions=np.zeros((50, 8), np.float32)))


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks rewards; it has actions, observations"):
        read_d4rl(write(tmp_path / "a.hdf5", rewards=None))
    with pytest.raises(DataError, match="none of its 50 steps ends an episode"):
        read_d4rl(write(tmp_path / "b.hdf5", terminals=np.zeros(50, bool)))
    bad = np.ones(50, np.float32)
    bad[25] = np.inf
    with pytest.raises(DataError, match="rewards has inf at episode 1, step 5"):
        read_d4rl(write(tmp_path / "c.hdf5", rewards=bad))
    with pytest.raises(DataError, match="as many rows"):
        read_d4rl(write(tmp_path / "d.hdf5", rewards=bad[:-1]))


def test_hdf5_that_leads_to_other_files_is_refused_before_any_read(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.hdf5")
    linked = write(tmp_path / "linked.hdf5", rewards=None)
    with h5py.File(linked, "a") as file:
        file["rewards"] = h5py.ExternalLink(outside.name, "rewards")
    virtual = write(tmp_path / "virtual.hdf5", rewards=None)
    layout = h5py.VirtualLayout(shape=(50,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(outside), "rewards", shape=(50,))
    with h5py.File(virtual, "a") as file:
        file.create_virtual_dataset("rewards", layout)
    stored = write(tmp_path / "stored.hdf5", rewards=None)
    with h5py.File(stored, "a") as file:
        file.create_dataset("rewards", (50,), "f4", external=[(str(tmp_path / "raw"), 0, 200)])
    for path, what in ((linked, "external link"), (virtual, "virtual dataset"), (stored, "stored outside")):
        with pytest.raises(DataError, match=what):
            read_d4rl(path)


def test_a_d4rl_name_is_found_where_d4rl_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"looked for .*hopper_medium_replay-v2\.hdf5\. Download it"):
        find_d4rl("hopper-medium-replay-v2")
    write(tmp_path / "hopper_medium_replay-v2.hdf5")
    assert len(load_episodes("hopper-medium-replay-v2")) == 2
    with pytest.raises(DataError, match="Did you mean 'hopper-medium-replay-v2'"):
        load_episodes("hopper-medium-repley-v2")


@pytest.mark.parametrize(
    ("name", "env_id"), [("walker2d_expert-v2", "Walker2d-v4"), ("halfcheetah_random-v2", "HalfCheetah-v4")]
)
def test_d4rl_data_is_scored_in_the_physics_it_was_recorded_in(tmp_path: Path, name: str, env_id: str) -> None:
    assert environment_for(read_d4rl(write(tmp_path / f"{name}.hdf5")), None).env_id == env_id


def test_the_embedded_set_is_what_its_note_says() -> None:
    episodes = load_episodes("hopper_demo")
    assert (len(episodes), episodes.num_steps, episodes.source.env_id) == (451, 130_716, "Hopper-v5")
    assert episodes.returns.mean() == pytest.approx(814.4, abs=0.1)
    assert episodes.returns.max() == pytest.approx(3227.5, abs=0.1)


def test_scores_are_d4rls_and_say_so() -> None:
    source = load_episodes("hopper_demo").source
    reference = reference_scores("Hopper-v5", source)
    assert reference is not None
    assert "D4RL" in reference.source
    assert normalized_score([-20.272305, 3234.3], reference).tolist() == pytest.approx([0.0, 100.0])
    assert reference_scores("CartPole-v1", source) is None
    assert set(REFERENCE_SCORES) == {"hopper", "halfcheetah", "walker2d", "ant"}


def test_an_environment_that_is_unknown_or_dead_is_refused_with_advice() -> None:
    with pytest.raises(TaskError, match="Did you mean Hopper-v5"):
        make_environment("Hoper-v5")
    with pytest.raises(TaskError, match="use env_id=Hopper-v4"):
        make_environment("Hopper-v2")


def test_a_task_survives_json_and_fits_its_data() -> None:
    task = describe_task(load_episodes("hopper_demo"))
    assert task.actions == {"low": [-1.0] * 3, "high": [1.0] * 3}
    assert (task.max_episode_steps, task.target_return) == (1000, pytest.approx(3227.5, abs=0.1))
    assert type(task).from_description(task.describe()) == task
    with pytest.raises(TaskError, match="11 observation columns, Ant-v5 gives 105"):
        describe_task(load_episodes("hopper_demo"), env_id="Ant-v5")


def minari_dataset(env_id: str, dataset_id: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Three short episodes of random actions, made with Minari's own tools."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    env = gymnasium.make(env_id, max_episode_steps=12)
    env.action_space.seed(0)
    buffers = []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        rows: dict[str, list[Any]] = {"observations": [observation]}
        ended = False
        while not ended:
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            row = {"actions": action, "rewards": reward, "terminations": terminated, "truncations": truncated}
            for key, value in {**row, "observations": observation}.items():
                rows.setdefault(key, []).append(value)
        buffers.append(EpisodeBuffer(id=seed, seed=seed, **rows))
    about = {
        "algorithm_name": "random",
        "author": "x",
        "author_email": "x@x",
        "code_permalink": "x",
        "description": "x",
    }
    minari.create_dataset_from_buffers(dataset_id, buffers, env=env, **about)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("env_id", "discrete"), [("CartPole-v1", True), ("Pendulum-v1", False)])
def test_a_minari_dataset_is_read(env_id: str, discrete: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    minari_dataset(env_id, "toy/random-v0", monkeypatch, tmp_path)
    episodes = load_episodes("toy/random-v0")
    assert (len(episodes), episodes.is_discrete, episodes.source.env_id) == (3, discrete, env_id)
    assert episodes.lengths.max() <= 12
    assert episodes.final_observations is not None
    assert describe_task(episodes).reference is None


def test_minari_says_what_to_do_for_an_id_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr("minari.download_dataset", lambda *_: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(DataError, match="could not be downloaded"):
        load_episodes("toy/absent-v0")


FORBIDDEN = {"envs": "torch hydra agents minrnn", "minrnn": "hydra gymnasium envs agents", "agents": "hydra gymnasium"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    root = Path(__file__).parents[1]
    modules = [f"{package}.{path.stem}" for path in (root / package).glob("[!_]*.py")]
    code = f"import sys\nfor m in {modules}: __import__(m)\nprint(set(sys.modules) & set({FORBIDDEN[package].split()}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={**os.environ}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
