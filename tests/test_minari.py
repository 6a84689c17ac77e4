"""Minari datasets are read as the episodes they were made of, and lead to no code and no other file."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from minari.data_collector import EpisodeBuffer

import envs.minari
from envs import DataError
from envs.minari import check_observation_space, flatten_over_time, open_minari, read_minari, sha256_of_folder

LENGTHS = (4, 1, 6)
VECTOR = Box(-10, 10, (3,), np.float64)
NESTED = Dict({"goal": Tuple((Discrete(3, start=1), Box(-1, 1, (2, 2)))), "body": Box(-5, 5, (2,), np.float64)})
CONTROLS = Box(-1, 1, (2,), np.float32)
Create = Callable[..., Path]


def sample_many(space: Any, num: int) -> Any:
    """num samples in Minari's layout: arrays over time at the leaves."""
    if isinstance(space, Dict):
        return {key: sample_many(part, num) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(sample_many(part, num) for part in space.spaces)
    samples = [space.sample() for _ in range(num)]
    return samples if isinstance(space, Text) else np.array(samples)


def make_buffers(observations: Any, actions: Any) -> list[EpisodeBuffer]:
    """Episodes of LENGTHS, alternately terminated and truncated."""
    buffers = []
    observations.seed(0)
    actions.seed(0)
    for index, length in enumerate(LENGTHS):
        ends = [step == length - 1 for step in range(length)]
        buffers.append(
            EpisodeBuffer(
                observations=sample_many(observations, length + 1),
                actions=sample_many(actions, length),
                rewards=list(np.linspace(0, index + 1, length)),
                terminations=[end and index % 2 == 0 for end in ends],
                truncations=[end and index % 2 == 1 for end in ends],
            )
        )
    return buffers


@pytest.fixture
def create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Create:
    """create(id, buffers, **keywords) -> the folder of its data; no local dataset is seen, no network used."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(minari, "download_dataset", no_network)

    def create_dataset(dataset_id: str, buffers: list[EpisodeBuffer], **keywords: Any) -> Path:
        with warnings.catch_warnings(action="ignore"):  # Minari asks for an author, a description and so on
            minari.create_dataset_from_buffers(dataset_id, buffers, **keywords)
        return tmp_path / dataset_id / "data"

    return create_dataset


def test_discrete_actions_come_as_whole_numbers_with_their_count(create: Create) -> None:
    env = gymnasium.make("CartPole-v1")
    buffers = make_buffers(Box(-4, 4, (4,), np.float32), env.action_space)
    create("cartpole/random-v0", buffers, env=env)
    episodes = read_minari("cartpole/random-v0")
    assert episodes.is_discrete
    assert (episodes.num_actions, episodes.obs_dim, episodes.source.env_id) == (2, 4, "CartPole-v1")
    assert episodes.source.env_kwargs == {}
    np.testing.assert_array_equal(episodes.actions, np.concatenate([buffer.actions for buffer in buffers]))


def test_the_observation_after_the_last_action_is_the_final_one(create: Create) -> None:
    buffers = make_buffers(VECTOR, CONTROLS)
    create("toy/vector-v0", buffers, observation_space=VECTOR, action_space=CONTROLS)
    for buffer, episode in zip(buffers, read_minari("toy/vector-v0"), strict=True):
        np.testing.assert_array_equal(episode.observations, np.asarray(buffer.observations[:-1], np.float32))
        np.testing.assert_array_equal(episode.final_observation, np.asarray(buffer.observations[-1], np.float32))
        np.testing.assert_array_equal(episode.actions, buffer.actions)
        np.testing.assert_array_equal(episode.rewards, np.asarray(buffer.rewards, np.float32))
        assert (episode.terminated, episode.truncated) == (buffer.terminations[-1], buffer.truncations[-1])


def test_nested_observations_are_flattened_as_gymnasium_flattens_each(create: Create) -> None:
    buffers = make_buffers(NESTED, CONTROLS)
    create("toy/nested-v0", buffers, observation_space=NESTED, action_space=CONTROLS)
    episodes = read_minari("toy/nested-v0")
    for buffer, episode in zip(buffers, episodes, strict=True):
        for step in range(len(episode)):
            body, (number, matrix) = (
                buffer.observations["body"][step],
                (one[step] for one in buffer.observations["goal"]),
            )
            expected: Any = gymnasium.spaces.flatten(NESTED, {"body": body, "goal": (number, matrix)})
            np.testing.assert_allclose(episode.observations[step], expected, rtol=1e-6)
    assert episodes.obs_dim == gymnasium.spaces.flatdim(NESTED)


def test_discrete_parts_become_one_hot_from_their_start() -> None:
    assert flatten_over_time(Discrete(3, start=1), np.array([1, 3])).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_many_choices_are_one_hot_each_and_text_is_left_out(create: Create) -> None:
    parts = {"choices": MultiDiscrete([2, 3], start=[1, 0]), "flags": MultiBinary(2), "mission": Text(5)}
    buffers = make_buffers(Dict(parts), CONTROLS)
    create("toy/choices-v0", buffers, observation_space=Dict(parts), action_space=CONTROLS)
    numeric = Dict({key: parts[key] for key in ("choices", "flags")})
    episode, recorded = read_minari("toy/choices-v0")[0], buffers[0].observations
    for step in range(len(episode)):
        expected: Any = gymnasium.spaces.flatten(numeric, {key: recorded[key][step] for key in numeric})
        np.testing.assert_array_equal(episode.observations[step], expected)
    with pytest.raises(DataError, match="expected observations with numbers in them"):
        check_observation_space(Dict(mission=Text(5)), "toy")


def test_what_an_agent_may_do_is_told_without_an_environment(create: Create) -> None:
    space = Box(np.array([-1, -np.inf], np.float32), np.array([2, np.inf], np.float32))
    create("toy/half-v0", make_buffers(VECTOR, space), observation_space=VECTOR, action_space=space)
    assert read_minari("toy/half-v0").source.actions == {"low": [-1.0, None], "high": [2.0, None]}


def test_a_second_opening_comes_from_the_cache(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(create)
    first = open_minari("toy/vector-v0")
    monkeypatch.setattr(envs.minari, "read_minari", None)
    again = open_minari("toy/vector-v0")
    np.testing.assert_array_equal(first.observations, again.observations)
    assert first.source == again.source


def test_keywords_time_limit_and_scores_come_from_the_metadata(create: Create) -> None:
    env = gymnasium.make("Pendulum-v1", g=5.0, max_episode_steps=33)
    buffers = make_buffers(Box(-1, 1, (3,), np.float32), env.action_space)
    create("pendulum/random-v0", buffers, env=env, ref_min_score=-1000.0, ref_max_score=-100.0)
    source = read_minari("pendulum/random-v0").source
    assert (source.env_id, source.env_kwargs) == ("Pendulum-v1", {"g": 5.0, "max_episode_steps": 33})
    assert source.reference == (-1000.0, -100.0)
    assert source.reference_source == "metadata of pendulum/random-v0"


def test_a_dataset_without_scores_or_environment_has_none(create: Create) -> None:
    create("toy/vector-v0", make_buffers(VECTOR, CONTROLS), observation_space=VECTOR, action_space=CONTROLS)
    source = read_minari("toy/vector-v0").source
    assert (source.env_id, source.reference, source.reference_source) == (None, None, None)


def test_its_own_evaluation_environment_is_the_one_to_score_in(create: Create) -> None:
    buffers = make_buffers(Box(-1, 1, (3,), np.float32), Box(-2, 2, (1,), np.float32))
    create("pendulum/other-v0", buffers, env="Pendulum-v1", eval_env=gymnasium.make("Pendulum-v1", g=5.0))
    source = read_minari("pendulum/other-v0").source
    assert source.env_kwargs == {"g": 5.0}
    assert any("recorded in Pendulum-v1, scored in the dataset's own" in note for note in source.notes)


def test_the_digest_is_what_sha256sum_prints_of_the_files(create: Create) -> None:
    folder = create("toy/vector-v0", make_buffers(VECTOR, CONTROLS), observation_space=VECTOR, action_space=CONTROLS)
    lines = ""
    for name in ("main_data.hdf5", "metadata.json"):
        lines += hashlib.sha256((folder / name).read_bytes()).hexdigest() + f"  {name}\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert read_minari("toy/vector-v0").source.sha256 == sha256_of_folder(folder) == expected


def change_episode(folder: Path, key: str, value: Any) -> None:
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        group = file["episode_0"]
        del group[key]
        group[key] = value


def toy(create: Create) -> Path:
    return create("toy/vector-v0", make_buffers(VECTOR, CONTROLS), observation_space=VECTOR, action_space=CONTROLS)


@pytest.mark.parametrize(
    ("terminated", "note"), [(True, "1 episodes end both terminated and truncated"), (False, "1 episodes end without")]
)
def test_an_episode_gets_one_end_and_the_notes_say_so(create: Create, terminated: bool, note: str) -> None:
    folder = toy(create)
    for key in ("terminations", "truncations"):
        change_episode(folder, key, np.array([False, False, False, terminated]))
    episodes = read_minari("toy/vector-v0")
    assert (episodes[0].terminated, episodes[0].truncated) == (terminated, not terminated)
    assert any(note in one for one in episodes.source.notes)


def test_an_episode_without_the_last_observation_has_no_final_one(create: Create) -> None:
    change_episode(toy(create), "observations", np.zeros((4, 3)))
    episodes = read_minari("toy/vector-v0")
    assert episodes[0].final_observation is None
    assert episodes[1].final_observation is not None


def test_an_episode_without_steps_is_left_out(create: Create) -> None:
    folder = toy(create)
    change_episode(folder, "observations", np.zeros((1, 3)))
    change_episode(folder, "actions", np.zeros((0, 2), np.float32))
    for key in ("rewards", "terminations", "truncations"):
        change_episode(folder, key, np.zeros(0))
    episodes = read_minari("toy/vector-v0")
    assert episodes.lengths.tolist() == list(LENGTHS[1:])
    assert "left out 1 episodes without a step" in episodes.source.notes


def test_nan_and_uneven_episodes_are_refused_by_number(create: Create) -> None:
    folder = toy(create)
    change_episode(folder, "rewards", np.array([0, 0, np.nan, 0]))
    with pytest.raises(DataError, match="toy/vector-v0: rewards has nan at episode 0, step 2"):
        read_minari("toy/vector-v0")
    kept = read_minari("toy/vector-v0", drop_invalid=True)
    assert kept.lengths.tolist() == list(LENGTHS[1:])
    assert "left out 1 of 3 episodes with nan or inf in them, as told" in kept.source.notes
    change_episode(folder, "rewards", np.zeros(7))
    with pytest.raises(DataError, match="episode 0 has 7 rewards, 4 actions and 5 observations"):
        read_minari("toy/vector-v0")


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (
            VECTOR,
            MultiDiscrete([2, 3]),
            "expected a Box of floats or a Discrete action space from 0, got MultiDiscrete",
        ),
        (VECTOR, Discrete(3, start=1), "expected a Box of floats or a Discrete action space from 0"),
        (Box(0, 255, (32, 32, 3), np.uint8), CONTROLS, r"that are vectors, got images of shape \(32, 32, 3\)"),
    ],
)
def test_spaces_that_no_agent_plays_are_refused(create: Create, observations: Any, actions: Any, message: str) -> None:
    keywords = {"observation_space": observations, "action_space": actions}
    create("toy/odd-v0", make_buffers(observations, actions), **keywords)
    with pytest.raises(DataError, match=message):
        read_minari("toy/odd-v0")


def test_an_id_that_is_nowhere_gets_near_matches_and_advice(create: Create) -> None:
    toy(create)
    with pytest.raises(DataError) as caught:
        read_minari("toy/vektor-v0")
    for part in ("ConnectionError: no network", "there is toy/vector-v0", "MINARI_DATASETS_PATH"):
        assert part in str(caught.value)


@pytest.mark.parametrize("dataset_id", ["toy/vector", "../toy/vector-v0", "/etc/vector-v0", ""])
def test_what_is_no_id_is_refused(create: Create, dataset_id: str) -> None:
    with pytest.raises(DataError, match="expected a Minari id such as mujoco/hopper/medium-v0"):
        read_minari(dataset_id)


def test_data_of_another_minari_is_refused_with_both_versions(create: Create) -> None:
    path = toy(create) / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "minari_version": "99.0.0"}))
    with pytest.raises(DataError, match=r"Minari cannot load toy/vector-v0: .*99\.0\.0"):
        read_minari("toy/vector-v0")


def test_an_external_link_in_an_episode_is_refused(create: Create) -> None:
    change_episode(toy(create), "rewards", h5py.ExternalLink("/somewhere/else.hdf5", "/rewards"))
    with pytest.raises(DataError, match="'episode_0/rewards' is an external link"):
        read_minari("toy/vector-v0")


def test_metadata_cannot_make_minari_run_code(create: Create, tmp_path: Path) -> None:
    path, sentinel = toy(create) / "metadata.json", tmp_path / "sentinel"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"]  # Minari would make the environment to learn it
    spec = {**json.loads(gymnasium.spec("Pendulum-v1").to_json())}
    spec |= {"entry_point": "os:system", "kwargs": {"command": f"touch {sentinel}"}}
    path.write_text(json.dumps({**metadata, "env_spec": json.dumps(spec)}))
    with pytest.raises(DataError, match=r"metadata.json lacks observation_space; download it again"):
        read_minari("toy/vector-v0")
    assert not sentinel.exists()
