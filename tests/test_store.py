"""A dataset is converted once, and what is in the cache is what was put there or nothing."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import WriteD4RL, d4rl_columns

from envs import DataError, Episodes
from envs.d4rl import read_d4rl
from envs.episodes import Allocate
from envs.hdf5 import sha256_of_file
from envs.store import ARRAYS, cache_folder, open_stored, stored_names


@pytest.fixture
def path(write_d4rl: WriteD4RL) -> Path:
    return write_d4rl(d4rl_columns([40, 30, 7], rest=5), env_id="Pendulum-v1")


def open_file(path: Path, reads: list[str] | None = None) -> Episodes:
    def read(allocate: Allocate) -> Episodes:
        if reads is not None:
            reads.append("read")
        return read_d4rl(path, allocate)

    return open_stored(path.name, sha256_of_file(path), read)


def assert_equal(one: Episodes, other: Episodes) -> None:
    for field in ARRAYS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert one.source == other.source
    assert one.num_actions == other.num_actions


def entry() -> Path:
    (found,) = (path for path in (cache_folder() / "episodes").iterdir() if path.is_dir())
    return found


def test_the_second_opening_reads_nothing_and_gives_the_same(path: Path) -> None:
    reads: list[str] = []
    for _ in range(3):
        episodes = open_file(path, reads)
        assert_equal(episodes, read_d4rl(path))
        assert isinstance(episodes.observations, np.memmap)
        assert not episodes.observations.flags.writeable
    assert reads == ["read"]
    assert stored_names() == ["mine"]


def test_other_bytes_under_the_same_name_are_read_anew(path: Path, write_d4rl: WriteD4RL) -> None:
    open_file(path)
    write_d4rl(d4rl_columns([5, 6]))
    assert open_file(path).lengths.tolist() == [5, 6]


@pytest.mark.fault("a cache entry that is cut, flipped or incomplete")
@pytest.mark.parametrize("name", ["observations.npy", "offsets.npy", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_torn_entry_is_made_again(path: Path, name: str, harm: str) -> None:
    whole = open_file(path)
    shape = whole.observations.shape
    del whole
    victim = entry() / name
    data = bytearray(victim.read_bytes())
    if harm == "gone":
        victim.unlink()
    else:
        data = data[: len(data) // 2] if harm == "cut" else data
        data[len(data) // 2 if harm == "flipped" else 0] ^= 1
        victim.write_bytes(data)
    reads: list[str] = []
    again = open_file(path, reads)
    assert again.observations.shape == shape
    assert_equal(again, read_d4rl(path))
    assert reads == ["read"]


def test_what_a_kill_left_half_written_is_never_believed(path: Path) -> None:
    open_file(path)
    half = entry().with_name(f".{entry().name}.partial")
    shutil.move(entry(), half)
    (half / "observations.npy").write_bytes(b"")
    reads: list[str] = []
    assert_equal(open_file(path, reads), read_d4rl(path))
    assert reads == ["read"]
    assert not half.exists()


def test_data_that_is_refused_leaves_nothing_behind(write_d4rl: WriteD4RL) -> None:
    bad = write_d4rl({**d4rl_columns([3]), "rewards": np.full(3, np.nan)})
    for _ in range(2):
        with pytest.raises(DataError, match="rewards has nan"):
            open_file(bad)
    assert stored_names() == []
    assert not [path for path in (cache_folder() / "episodes").iterdir() if path.is_dir()]


def test_without_a_place_for_the_cache_the_data_is_read_anyway(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINRNN_RL_CACHE", str(tmp_path / "file" / "below"))
    episodes = open_file(path)
    assert len(episodes) == 3
    assert "not kept in the cache" in episodes.source.notes[-1]


@pytest.mark.fault("several processes that prepare one dataset")
def test_processes_that_open_it_together_get_the_same(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        lengths = pool.map(_lengths, [path] * 3)
    assert lengths == [[40, 30, 7]] * 3
    assert len([one for one in (cache_folder() / "episodes").iterdir() if one.is_dir()]) == 1


def _lengths(path: Path) -> list[int]:
    return open_file(path).lengths.tolist()


@pytest.mark.fault("a process killed while it prepared a dataset")
def test_a_killed_process_holds_nobody_up(path: Path, tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from envs.store import open_stored
def read(allocate):
    allocate("observations", (1000, 3), "float32")
    print("reading", flush=True)
    time.sleep(60)
open_stored({path.name!r}, {sha256_of_file(path)!r}, read)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"reading\n"
        holder.kill()
    assert_equal(open_file(path), read_d4rl(path))


@pytest.mark.fault("the disk of the cache is full")
@pytest.mark.slow
def test_a_full_disk_costs_the_cache_and_not_the_data(
    write_d4rl: WriteD4RL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        monkeypatch.setenv("MINRNN_RL_CACHE", str(small))
        episodes = open_file(write_d4rl(d4rl_columns([20_000, 20_000])))
        assert episodes.num_steps == 40_000
        assert "No space left" in episodes.source.notes[-1]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)
