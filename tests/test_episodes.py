"""The flat store gives back the episodes it was made of, and refuses what cannot be learnt from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import DataError, Episode, Episodes, Source

SOURCE = Source("made-up", "0" * 64)
LENGTHS = (3, 1, 5)


def make_episode(length: int, *, discrete: bool = False, terminated: bool = True, final: bool = True) -> Episode:
    random = np.random.default_rng(length)
    return Episode(
        random.normal(size=(length, 4)).astype(np.float32),
        random.integers(3, size=length) if discrete else random.normal(size=(length, 2)).astype(np.float32),
        random.normal(size=length).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        final_observation=np.full(4, length, np.float32) if final else None,
    )


def make_episodes(**keywords: Any) -> Episodes:
    return Episodes.from_episodes([make_episode(length, **keywords) for length in LENGTHS], SOURCE)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_store_gives_back_the_episodes_it_was_made_of(discrete: bool) -> None:
    originals = [make_episode(n, discrete=discrete, terminated=n != 1, final=n != 5) for n in LENGTHS]
    episodes = Episodes.from_episodes(originals, SOURCE)
    for original, stored in zip(originals, episodes, strict=True):
        np.testing.assert_array_equal(stored.observations, original.observations)
        np.testing.assert_array_equal(stored.actions, original.actions)
        np.testing.assert_array_equal(stored.rewards, original.rewards)
        assert (stored.terminated, stored.truncated) == (original.terminated, original.truncated)
        assert (stored.final_observation is None) == (original.final_observation is None)
        assert len(stored) == len(original)


def test_counts_lengths_and_returns_are_those_of_a_slow_loop() -> None:
    episodes = make_episodes()
    assert (len(episodes), episodes.num_steps, episodes.obs_dim, episodes.action_dim) == (3, 9, 4, 2)
    assert episodes.lengths.tolist() == list(LENGTHS)
    np.testing.assert_allclose(episodes.returns, [sum(map(float, one.rewards)) for one in episodes], rtol=1e-12)


def test_returns_are_summed_in_float64() -> None:
    rewards = np.array([2.0**24, 1.0, 1.0], np.float32)  # in float32 adding 1 to 2^24 changes nothing
    episode = replace(make_episode(3), rewards=rewards)
    assert Episodes.from_episodes([episode], SOURCE).returns.tolist() == [2.0**24 + 2]


def test_an_episode_without_steps_has_return_zero_and_shifts_no_other() -> None:
    episodes = Episodes.from_episodes([make_episode(3), make_episode(0), make_episode(5)], SOURCE)
    assert episodes.lengths.tolist() == [3, 0, 5]
    np.testing.assert_allclose(episodes.returns, [one.rewards.sum(dtype=np.float64) for one in episodes], rtol=1e-12)


def test_episodes_are_counted_from_the_end_too_and_only_as_far_as_they_go() -> None:
    episodes = make_episodes()
    assert len(episodes[-1]) == LENGTHS[-1]
    with pytest.raises(IndexError, match="episode 3 of 3"):
        episodes[3]


@pytest.mark.parametrize("indices", [[2, 0, 1], [-1, 1, 1], np.array([False, True, True])])
def test_select_takes_these_episodes_in_this_order(indices: Any) -> None:
    episodes = Episodes.from_episodes([make_episode(n, terminated=n == 1) for n in LENGTHS], SOURCE)
    chosen = episodes.select(indices)
    expected = [episodes[int(i)] for i in np.arange(3)[indices]]
    for got, wanted in zip(chosen, expected, strict=True):
        np.testing.assert_array_equal(got.observations, wanted.observations)
        np.testing.assert_array_equal(got.final_observation, wanted.final_observation)
        assert (got.terminated, got.truncated) == (wanted.terminated, wanted.truncated)
    assert chosen.source == SOURCE


def test_select_refuses_to_select_nothing() -> None:
    with pytest.raises(DataError, match="at least one episode to select"):
        make_episodes().select([])


def test_read_only_arrays_are_enough(tmp_path: Path) -> None:
    episodes = make_episodes()
    np.save(tmp_path / "observations.npy", episodes.observations)
    mapped = np.load(tmp_path / "observations.npy", mmap_mode="r")
    episodes.rewards.flags.writeable = False
    stored = replace(episodes, observations=mapped)
    assert len(stored.select([1, 2])) == 2
    np.testing.assert_array_equal(stored[1].observations, episodes[1].observations)


@pytest.mark.fault("float64 that float32 cannot hold")
def test_float64_is_cast_and_what_overflows_is_reported() -> None:
    too_large: Any = np.array([1.0, 1e39, 2.0])
    ones: Any = np.ones(3)
    episode = replace(make_episode(3), rewards=too_large)
    with pytest.raises(DataError, match=r"rewards has inf at episode 0, step 1"):
        Episodes.from_episodes([episode], SOURCE)
    assert Episodes.from_episodes([replace(episode, rewards=ones)], SOURCE).rewards.dtype == np.float32


@pytest.mark.fault("NaN or infinity in a dataset")
@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_named_by_field_episode_and_step(field: str, value: float) -> None:
    episodes = make_episodes()
    array = getattr(episodes, field).copy()
    array[4], array[6] = value, value  # episode 2 begins in row 4
    with pytest.raises(DataError, match=rf"made-up: {field} has {value} at episode 2, step 0 \(row 4\); 2 such rows"):
        replace(episodes, **{field: array})


def test_a_final_observation_is_all_numbers_or_all_nan() -> None:
    episodes = make_episodes()
    assert episodes.final_observations is not None
    finals = episodes.final_observations.copy()
    finals[1, 2] = np.nan
    with pytest.raises(DataError, match="final_observations has nan or inf for episode 1"):
        replace(episodes, final_observations=finals)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "both ends": ({"terminated": np.ones(3, bool), "truncated": np.array([0, 1, 0], bool)}, "episode 1 is both"),
    "float64": ({"rewards": np.zeros(9)}, "expected rewards as 1-dimensional float32, got float64"),
    "rewards in a column": ({"rewards": np.zeros((9, 1), np.float32)}, "expected rewards as 1-dimensional float32"),
    "int32 actions": ({"actions": np.zeros(9, np.int32)}, "expected actions as 1-dimensional int64, got int32"),
    "negative actions": ({"actions": np.array([0] * 8 + [-1])}, "expected actions at least 0, got -1 at episode 2"),
    "too high actions": ({"actions": np.arange(9), "num_actions": 8}, "expected actions 0 to 7, got 8 at episode 2"),
    "fewer actions": ({"actions": np.zeros((8, 2), np.float32)}, "expected 9 actions, one a reward; got 8"),
    "fewer flags": ({"truncated": np.zeros(2, bool)}, "expected 3 truncated, one an episode; got 2"),
    "falling offsets": ({"offsets": np.array([0, 5, 4, 9])}, "episode 1 runs from 5 to 4"),
    "short offsets": ({"offsets": np.array([0, 3, 4, 8])}, "expected offsets from 0 to 9"),
    "narrow finals": ({"final_observations": np.zeros((3, 3), np.float32)}, r"final_observations of shape \(3, 4\)"),
}


@pytest.mark.fault("ragged, empty or misshapen episodes")
@pytest.mark.parametrize("name", BROKEN)
def test_arrays_that_do_not_fit_together_are_refused(name: str) -> None:
    changes, message = BROKEN[name]
    with pytest.raises(DataError, match=f"^made-up: .*{message}"):
        replace(make_episodes(), **changes)


def test_a_store_without_a_step_is_refused() -> None:
    with pytest.raises(DataError, match="at least one episode, got none"):
        Episodes.from_episodes([], SOURCE)
    with pytest.raises(DataError, match="at least one episode with a step"):
        Episodes.from_episodes([make_episode(0)], SOURCE)


@pytest.mark.fault("ragged, empty or misshapen episodes")
def test_uneven_episodes_are_refused_by_number() -> None:
    good = make_episode(3)
    with pytest.raises(DataError, match="episode 1 has 3 observations, 3 actions and 2 rewards"):
        Episodes.from_episodes([good, replace(good, rewards=good.rewards[:2])], SOURCE)
    with pytest.raises(DataError, match=r"actions of episode 1 have shape \(1,\); expected \(2,\)"):
        Episodes.from_episodes([good, replace(good, actions=good.actions[:, :1])], SOURCE)


def test_discrete_actions_have_a_count_and_no_columns() -> None:
    episodes = make_episodes(discrete=True)
    assert episodes.is_discrete
    with pytest.raises(AttributeError, match="num_actions"):
        _ = episodes.action_dim


def test_importing_envs_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'gymnasium', 'h5py', 'minari', 'scipy', 'mujoco'}"
    code = f"import sys, envs; print(*({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True).stdout.split() == []


def test_columns_of_the_observations_can_be_chosen() -> None:
    episodes = Episodes.from_episodes([make_episode(3), make_episode(2)], Source("mine", ""))
    chosen = episodes.select_columns([1, 0])
    np.testing.assert_array_equal(chosen.observations, episodes.observations[:, [1, 0]])
    assert chosen.obs_dim == 2
    for columns in ([], [episodes.obs_dim], [-1]):
        with pytest.raises(DataError, match="expected observation_columns between 0 and"):
            episodes.select_columns(columns)
