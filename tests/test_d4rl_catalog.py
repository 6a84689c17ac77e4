"""Every file D4RL published has its place, and what is known of it."""

from __future__ import annotations

import re

import pytest

from envs.d4rl_catalog import HOST, SUITES, d4rl_files, find_suite, name_of_file
from envs.download import addresses


def test_all_of_d4rl_is_there() -> None:
    files = d4rl_files()
    assert len(files) == 155
    assert {file.suite.name for file in files.values()} == {suite.name for suite in SUITES}
    hopper = files["hopper-medium-v2"]
    assert addresses(hopper) == [f"{HOST}gym_mujoco_v2/hopper_medium-v2.hdf5"]
    assert (hopper.num_bytes, hopper.reference) == (152_756_557, (-20.272305, 3234.3))


@pytest.mark.parametrize("name", sorted(d4rl_files()))
def test_a_row_is_whole(name: str) -> None:
    file = d4rl_files()[name]
    assert file.path.endswith(".hdf5")
    assert (file.sha256 is None) == (file.num_bytes is None)
    assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert file.reference is None or file.reference[0] < file.reference[1]
    assert sum(bool(re.match(suite.pattern, name)) for suite in SUITES) == 1
    assert file.suite.environments or file.suite.why_none


def test_no_two_files_share_a_name_on_disk() -> None:
    names = [file.file_name for file in d4rl_files().values()]
    assert len(set(names)) == len(names)
    assert all(name_of_file(_path(file.file_name)) == name for name, file in d4rl_files().items())


def test_a_maze_is_not_an_ant() -> None:
    assert find_suite("antmaze-umaze-v2").name == "antmaze"
    assert find_suite("ant-random-expert-v0").name == "gym-mujoco"


def _path(name: str):  # type: ignore[no-untyped-def]
    from pathlib import Path

    return Path(name)
