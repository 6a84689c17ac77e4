"""A dataset is found by whichever of its names one gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import WriteD4RL, d4rl_columns

import envs.minari
from envs import DataError, Episodes, load_episodes


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


@pytest.mark.parametrize("name", ["hopper-medium-v2", "d4rl:hopper-medium-v2"])
def test_a_d4rl_name_is_enough(mine: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mine.rename(mine.parent / "hopper_medium-v2.hdf5")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(mine.parent))
    assert load_episodes(name).source.dataset_id == "hopper-medium-v2"


@pytest.mark.parametrize("name", ["mujoco/hopper/medium-v0", "minari:mujoco/hopper/medium-v0", "minari:medium-v0"])
def test_a_minari_id_goes_to_minari(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[str] = []

    def read(dataset_id: str) -> Episodes:
        asked.append(dataset_id)
        raise DataError("asked")

    monkeypatch.setattr(envs.minari, "read_minari", read)
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
