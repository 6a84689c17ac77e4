"""D4RL's files, and files like them, are read as the episodes that were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import WriteD4RL, d4rl_columns

import envs.checks
import envs.hdf5
from envs import DataError
from envs.d4rl import read_d4rl
from envs.d4rl_catalog import d4rl_files
from envs.d4rl_ends import mark_time_limits

LENGTHS = [4, 3, 1, 5]


def without(columns: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: column for key, column in columns.items() if key not in keys}


def test_episodes_are_those_a_loop_over_the_rows_finds(write_d4rl: WriteD4RL) -> None:
    columns = d4rl_columns(LENGTHS, rest=2)
    episodes = read_d4rl(write_d4rl(columns))
    row = 0
    for length, episode in zip(LENGTHS, episodes, strict=True):
        for step in range(length):
            np.testing.assert_array_equal(episode.observations[step], columns["observations"][row])
            np.testing.assert_array_equal(episode.actions[step], columns["actions"][row])
            assert episode.rewards[step] == columns["rewards"][row]
            row += 1
        assert episode.terminated == columns["terminals"][row - 1]
        assert episode.truncated == columns["timeouts"][row - 1]
        np.testing.assert_array_equal(episode.final_observation, columns["next_observations"][row - 1])


def test_a_last_episode_without_a_flag_is_dropped_and_the_notes_say_so(write_d4rl: WriteD4RL) -> None:
    episodes = read_d4rl(write_d4rl(d4rl_columns(LENGTHS, rest=2)))
    assert episodes.lengths.tolist() == LENGTHS
    assert "dropped the last 2 steps: an episode cut without a flag" in episodes.source.notes
    assert read_d4rl(write_d4rl(d4rl_columns(LENGTHS))).source.notes == ()


def test_a_file_with_one_unfinished_episode_is_refused(write_d4rl: WriteD4RL) -> None:
    with pytest.raises(DataError, match="none of its 7 steps ends an episode; set terminals or timeouts"):
        read_d4rl(write_d4rl(d4rl_columns([], rest=7)))


def test_replay_files_of_floats_read_like_the_others(write_d4rl: WriteD4RL) -> None:
    columns = d4rl_columns(LENGTHS)
    floats = {key: column.astype(np.float64) for key, column in columns.items()}
    floats["rewards"] = floats["rewards"][:, None]
    floats["terminals"] = floats["terminals"][:, None]
    one, other = read_d4rl(write_d4rl(columns, "one.hdf5")), read_d4rl(write_d4rl(floats, "other.hdf5"))
    for field in ("observations", "actions", "rewards", "offsets", "terminated", "truncated", "final_observations"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        assert getattr(one, field).dtype == getattr(other, field).dtype


def test_whole_numbers_as_actions_are_discrete(write_d4rl: WriteD4RL) -> None:
    columns = d4rl_columns(LENGTHS)
    columns["actions"] = (np.arange(13) % 3).astype(np.int32)[:, None]
    episodes = read_d4rl(write_d4rl(columns))
    assert episodes.is_discrete
    assert episodes.actions.tolist() == (np.arange(13) % 3).tolist()


def test_a_file_without_next_observations_has_no_final_ones(write_d4rl: WriteD4RL) -> None:
    assert read_d4rl(write_d4rl(without(d4rl_columns(LENGTHS), "next_observations"))).final_observations is None


def test_both_flags_on_a_step_are_a_timeout(write_d4rl: WriteD4RL) -> None:
    columns = d4rl_columns(LENGTHS)
    columns["timeouts"][3] = True
    episodes = read_d4rl(write_d4rl(columns))
    assert (episodes[0].terminated, episodes[0].truncated) == (False, True)
    assert "1 steps with both flags set are taken as timeouts" in episodes.source.notes


def test_without_timeouts_a_known_time_limit_cuts(write_d4rl: WriteD4RL) -> None:
    columns = without(d4rl_columns([1500, 2100, 10]), "timeouts")  # terminals at the ends of the first and third
    columns["terminals"][1500 + 2100 - 1] = True
    episodes = read_d4rl(write_d4rl(columns, env_id="Hopper-v5"))
    assert episodes.lengths.tolist() == [1000, 500, 1000, 1000, 100, 10]
    assert episodes.truncated.tolist() == [True, False, True, True, False, False]
    assert "the file has no timeouts: episodes were cut at Hopper-v5's limit of 1000 steps" in episodes.source.notes


def test_without_timeouts_and_time_limit_only_terminals_end_an_episode(write_d4rl: WriteD4RL) -> None:
    episodes = read_d4rl(write_d4rl(without(d4rl_columns([4, 3, 1, 5]), "timeouts")))
    assert episodes.lengths.tolist() == [4, 4]
    assert "the file has no timeouts: only terminals end an episode" in episodes.source.notes


@pytest.mark.parametrize("seed", range(3))
def test_time_limits_are_those_a_step_counter_marks(seed: int) -> None:
    terminals = np.random.default_rng(seed).random(200) < 0.1
    expected, age = [], 0
    for terminal in terminals:
        age += 1
        expected.append(age == 7 and not terminal)
        age = 0 if terminal or age == 7 else age
    assert mark_time_limits(terminals, 7).tolist() == expected


def test_ants_empty_contact_forces_are_left_out(write_d4rl: WriteD4RL) -> None:
    columns = d4rl_columns(LENGTHS, obs_dim=111, action_dim=8)
    columns["observations"][:, 27:] = 0
    episodes = read_d4rl(write_d4rl(columns, "ant_medium-v2.hdf5"))
    assert episodes.obs_dim == 27
    assert episodes.final_observations is not None
    assert episodes.final_observations.shape == (4, 27)
    assert any("kept the first 27 of 111" in note for note in episodes.source.notes)


def test_ants_true_contact_forces_are_refused(write_d4rl: WriteD4RL) -> None:
    with pytest.raises(DataError, match="contact forces, which Ant-v4 does not give"):
        read_d4rl(write_d4rl(d4rl_columns(LENGTHS, obs_dim=111, action_dim=8), "ant_medium-v2.hdf5"))


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("hopper_medium_replay-v2.hdf5", "Hopper-v4"),
        ("walker2d_expert-v2.hdf5", "Walker2d-v4"),
        ("halfcheetah_random-v1.hdf5", "HalfCheetah-v4"),
        ("hopper_mixed.hdf5", "Hopper-v4"),
        ("hopper_mine.hdf5", None),
        ("mine.hdf5", None),
    ],
)
def test_a_d4rl_file_name_tells_the_environment(write_d4rl: WriteD4RL, name: str, env_id: str | None) -> None:
    assert read_d4rl(write_d4rl(d4rl_columns(LENGTHS), name)).source.env_id == env_id


def test_the_files_own_word_on_its_environment_comes_first(write_d4rl: WriteD4RL) -> None:
    source = read_d4rl(write_d4rl(d4rl_columns(LENGTHS), "hopper_medium-v2.hdf5", env_id="Hopper-v5")).source
    assert (source.env_id, source.dataset_id) == ("Hopper-v5", "hopper-medium-v2")


@pytest.mark.parametrize("missing", ["observations", "actions", "rewards", "terminals"])
def test_a_foreign_layout_is_told_what_it_lacks_and_has(write_d4rl: WriteD4RL, missing: str) -> None:
    with pytest.raises(DataError, match=f"it lacks {missing}; it has .*next_observations.*Expected observations"):
        read_d4rl(write_d4rl(without(d4rl_columns(LENGTHS), missing)))


def test_a_minari_file_is_told_to_go_by_its_id(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file["episode_0/rewards"] = np.zeros(3)
    with pytest.raises(DataError, match="looks like Minari's: give the dataset's id instead"):
        read_d4rl(tmp_path / "main_data.hdf5")


BROKEN: dict[str, tuple[str, Any, str]] = {
    "a short column": ("rewards", np.zeros(12), "expected as many rows in every column"),
    "a scalar": ("rewards", np.float32(3), "expected as many rows in every column"),
    "no steps": ("rewards", np.zeros(0), "expected as many rows in every column and at least one"),
    "text": ("rewards", np.array([b"one"] * 13), "expected numbers in 'rewards'"),
    "flat observations": ("observations", np.zeros(13), r"observations of shape \[num_steps, width\], got \(13,\)"),
    "many whole numbers": ("actions", np.zeros((13, 2), int), "expected one whole number a step in actions"),
    "nan": ("observations", np.full((13, 3), np.nan), "observations has nan at episode 0, step 0"),
    "too large": ("rewards", np.full(13, 1e39), "rewards has inf at episode 0, step 0"),
    "narrow next": ("next_observations", np.zeros((13, 2)), r"expected final_observations of shape \(4, 3\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_column_that_cannot_be_used_is_refused_by_name(write_d4rl: WriteD4RL, name: str) -> None:
    key, column, message = BROKEN[name]
    with pytest.raises(DataError, match=message):
        read_d4rl(write_d4rl({**d4rl_columns(LENGTHS), key: column}))


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file at"):
        read_d4rl(tmp_path / "none.hdf5")


def test_terminals_at_the_time_limit_are_timeouts(write_d4rl: WriteD4RL) -> None:
    columns = d4rl_columns([1000, 40, 1000])
    episodes = read_d4rl(write_d4rl(columns, "hopper_medium-v0.hdf5", env_id="Hopper-v4"))
    assert episodes.terminated.tolist() == [False, False, False]
    assert "2 terminals at the time limit of 1000 steps are taken as timeouts" in episodes.source.notes
    cut = "1 of 3 episodes were cut before the time limit of 1000 steps without having failed"
    assert any(note.startswith(cut) for note in episodes.source.notes)


def antmaze_columns() -> dict[str, Any]:
    """Three recordings of 5 steps: the goal reached twice, never, and at the first step; two steps more."""
    columns = d4rl_columns([], rest=17, obs_dim=29, action_dim=8)
    columns["timeouts"][[4, 9, 14]] = True
    columns["terminals"][[2, 3, 10, 11, 12]] = True
    columns["rewards"] = columns["terminals"].astype(np.float32)
    return without(columns, "next_observations")


def test_an_antmaze_episode_ends_at_the_goal(write_d4rl: WriteD4RL) -> None:
    columns = antmaze_columns()
    name = "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5"
    episodes = read_d4rl(write_d4rl(columns, name))
    assert episodes.lengths.tolist() == [3, 5, 1]
    assert episodes.returns.tolist() == [1.0, 0.0, 1.0]
    assert episodes.terminated.tolist() == [True, False, True]
    np.testing.assert_array_equal(episodes[1].observations, columns["observations"][5:10])
    assert episodes.source.dataset_id == "antmaze-umaze-v2"
    assert episodes.source.env_id is None
    assert "left out 6 steps recorded after the goal had been reached: a return is 0 or 1" in episodes.source.notes


# (a D4RL name, columns of an observation and of an action, its environment here)
SUITES = [
    ("halfcheetah-medium-replay-v0", 17, 6, "HalfCheetah-v4"),
    ("ant-expert-v2", 27, 8, "Ant-v4"),
    ("pen-human-v1", 45, 24, "AdroitHandPen-v1"),
    ("door-cloned-v1", 39, 28, "AdroitHandDoor-v1"),
    ("maze2d-umaze-v1", 4, 2, None),
    ("kitchen-complete-v0", 60, 9, None),
    ("antmaze-large-play-v2", 29, 8, None),
    ("bullet-hopper-medium-v0", 15, 3, None),
]


@pytest.mark.parametrize(("name", "obs_dim", "action_dim", "env_id"), SUITES)
def test_every_suite_reads_by_its_files_name(
    write_d4rl: WriteD4RL, name: str, obs_dim: int, action_dim: int, env_id: str | None
) -> None:
    columns = d4rl_columns([4, 3, 4, 3], obs_dim=obs_dim, action_dim=action_dim)
    source = read_d4rl(write_d4rl(columns, d4rl_files()[name].file_name)).source
    assert (source.dataset_id, source.env_id) == (name, env_id)
    assert (source.why_no_env is None) == (env_id is not None)
    assert source.actions == {"low": [-1.0] * action_dim, "high": [1.0] * action_dim}


def test_a_file_carries_its_own_reference_scores_and_keywords(write_d4rl: WriteD4RL) -> None:
    attributes = {"env_id": "Hopper-v5", "random_return": 17.5, "expert_return": 3000.0, "env_kwargs": '{"a": 1}'}
    source = read_d4rl(write_d4rl(d4rl_columns(LENGTHS), **attributes)).source
    assert (source.reference, source.reference_source) == ((17.5, 3000.0), "attributes of mine.hdf5")
    assert source.env_kwargs == {"a": 1}
    with pytest.raises(DataError, match="expected a JSON object in the attribute env_kwargs"):
        read_d4rl(write_d4rl(d4rl_columns(LENGTHS), **{**attributes, "env_kwargs": "[1]"}))


def test_a_file_is_read_block_by_block_as_at_once(write_d4rl: WriteD4RL, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_d4rl(d4rl_columns([40, 30, 7], rest=5))
    whole = read_d4rl(path)
    monkeypatch.setattr(envs.hdf5, "ROWS_AT_ONCE", 9)
    monkeypatch.setattr(envs.checks, "ROWS_AT_ONCE", 9)
    in_blocks = read_d4rl(path)
    for field in ("observations", "actions", "rewards", "offsets", "final_observations"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(in_blocks, field))
