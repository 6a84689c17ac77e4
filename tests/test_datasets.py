"""A dataset is found by whichever of its names one gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import WriteD4RL, d4rl_columns

import envs.d4rl_catalog
import envs.minari
from envs import DataError, Episodes, load_episodes
from envs.d4rl_catalog import d4rl_files


@pytest.fixture
def mine(write_d4rl: WriteD4RL, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file of one's own, in the current directory."""
    path = write_d4rl(d4rl_columns([3, 2]))
    monkeypatch.chdir(path.parent)
    return path


def test_the_embedded_set_is_what_its_note_says() -> None:
    episodes = load_episodes("hopper_demo")
    assert (len(episodes), episodes.num_steps, episodes.obs_dim, episodes.action_dim) == (451, 130_716, 11, 3)
    assert episodes.source.env_id == "Hopper-v5"
    assert episodes.source.notes == ()
    assert round(episodes.returns.mean(), 1) == 814.4
    assert round(episodes.returns.max(), 1) == 3227.5


def test_a_path_may_be_relative_absolute_or_from_home(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(mine.parent))
    for name in ("mine.hdf5", str(mine), "~/mine.hdf5"):
        assert len(load_episodes(name)) == 2


@pytest.fixture
def published(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of D4RL's files, in which my file passes for hopper-medium-v2, -expert-v2 and the others."""
    known = {name: file._replace(num_bytes=None, sha256=None) for name, file in d4rl_files().items()}
    monkeypatch.setattr(envs.d4rl_catalog, "d4rl_files", lambda: known)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(mine.parent))
    return mine.parent


@pytest.mark.parametrize("name", ["hopper-medium-v2", "d4rl:hopper-medium-v2"])
def test_a_d4rl_name_is_enough(mine: Path, published: Path, name: str) -> None:
    mine.rename(published / "hopper_medium-v2.hdf5")
    episodes = load_episodes(name)
    assert (episodes.source.dataset_id, episodes.source.env_id) == ("hopper-medium-v2", "Hopper-v4")


def test_a_file_that_is_not_the_published_one_is_refused_by_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(mine.parent))
    path = mine.rename(mine.parent / "hopper_medium-v2.hdf5")
    with pytest.raises(DataError, match=r"where 152,756,557 were published: it is not hopper-medium-v2, or was cut"):
        load_episodes("hopper-medium-v2")
    assert len(load_episodes(str(path))) == 2


def test_medium_expert_is_made_of_its_halves(write_d4rl: WriteD4RL, published: Path) -> None:
    write_d4rl(d4rl_columns([3, 2]), "hopper_medium-v2.hdf5")
    write_d4rl(d4rl_columns([4], rest=1), "hopper_expert-v2.hdf5")
    episodes = load_episodes("hopper-medium-expert-v2")
    assert episodes.lengths.tolist() == [3, 2, 4]
    halves = [load_episodes(f"hopper-{kind}-v2") for kind in ("medium", "expert")]
    np.testing.assert_array_equal(episodes.actions, np.concatenate([half.actions for half in halves]))
    assert episodes.source.sha256 == "+".join(half.source.sha256 for half in halves)
    assert episodes.source.notes[-1].startswith("made of hopper_medium-v2.hdf5 and hopper_expert-v2.hdf5")
    write_d4rl(d4rl_columns([5]), "hopper_medium_expert-v2.hdf5")
    assert load_episodes("hopper-medium-expert-v2").lengths.tolist() == [5]  # its own file comes first


def test_a_misspelt_d4rl_name_is_told_its_neighbours() -> None:
    with pytest.raises(DataError, match=r"Did you mean .*hopper-medium-replay-v2"):
        load_episodes("d4rl:hoper-medium-replay-v2")


@pytest.mark.parametrize("name", ["mujoco/hopper/medium-v0", "minari:mujoco/hopper/medium-v0", "minari:medium-v0"])
def test_a_minari_id_goes_to_minari(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[str] = []

    def read(dataset_id: str, *, drop_invalid: bool) -> Episodes:
        asked.append(dataset_id)
        raise DataError("asked")

    monkeypatch.setattr(envs.minari, "open_minari", read)
    with pytest.raises(DataError, match="asked"):
        load_episodes(name)
    assert asked == [name.removeprefix("minari:")]


@pytest.mark.parametrize(
    ("name", "near"),
    [("hoper_demo", "'hopper_demo'"), ("hopper-medum-v2", "'hopper-medium-v2'"), ("mien.hdf5", "'mine.hdf5'")],
)
def test_an_unknown_name_lists_what_is_accepted_and_near_matches(mine: Path, name: str, near: str) -> None:
    with pytest.raises(DataError) as caught:
        load_episodes(name)
    for part in ("hopper_demo", "an HDF5 file in D4RL's layout", "D4RL name", "Minari id", f"got {name!r}", near):
        assert part in str(caught.value)


def test_a_name_like_nothing_gets_no_guess(mine: Path) -> None:
    with pytest.raises(DataError, match=r"which is none of these\.$"):
        load_episodes("qqqqqqqq")


@pytest.mark.fault("NaN or infinity in a dataset")
def test_invalid_episodes_are_left_out_only_when_told(write_d4rl: WriteD4RL) -> None:
    columns = d4rl_columns([3, 2, 4, 5])
    columns["observations"][4, 1], columns["rewards"][9] = np.nan, np.inf
    path = str(write_d4rl(columns))
    with pytest.raises(DataError, match="leave those episodes out with drop_invalid_episodes=true"):
        load_episodes(path)
    episodes = load_episodes(path, drop_invalid=True)
    assert episodes.lengths.tolist() == [3, 4]
    np.testing.assert_array_equal(episodes.actions, np.delete(columns["actions"], [3, 4, *range(9, 14)], axis=0))
    assert "left out 2 of 4 episodes with nan or inf in them, as told" in episodes.source.notes
    with pytest.raises(DataError):  # what was converted with the flag is not taken for the whole
        load_episodes(path)


def test_a_set_of_invalid_episodes_alone_is_refused_all_the_same(write_d4rl: WriteD4RL) -> None:
    columns = {**d4rl_columns([3]), "rewards": np.full(3, np.nan)}
    with pytest.raises(DataError, match="expected at least one episode"):
        load_episodes(str(write_d4rl(columns)), drop_invalid=True)
