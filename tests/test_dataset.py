"""dataset.py tells what there is, and hands it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import WriteD4RL, d4rl_columns

import dataset
from envs import load_episodes


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("COLUMNS", "140")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    dataset.main(list(arguments))
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        dataset.main(list(arguments))
    assert exit_.value.code == 1
    return capsys.readouterr().err


def test_what_is_here_and_what_can_be_had_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "hopper_demo" in said(capsys, "list")
    listed = said(capsys, "list", "antmaze")
    assert "antmaze-umaze-diverse-v2" in listed
    assert "hopper-medium-v2" not in listed
    assert "hopper-medium-v2" in said(capsys, "list", "d4rl")
    assert "what to list must be one of all, here, d4rl" in refused(capsys, "list", "atari")


def test_the_demo_is_shown_with_all_that_is_known_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = said(capsys, "show", "hopper_demo", "--png", str(tmp_path / "new" / "demo.png"))
    for part in ("451, 130,716 (431 terminated, 20 truncated)", "Hopper-v5", "d4rl/infos.py", "99.8", "no problems"):
        assert part in shown
    counts = [int(line.split()[-1]) for line in shown.splitlines() if " to " in line and "█" in line]
    assert sum(counts) == 451
    assert (tmp_path / "new" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_set_without_environment_and_scores_says_so(
    capsys: pytest.CaptureFixture[str], write_d4rl: WriteD4RL
) -> None:
    shown = said(capsys, "show", str(write_d4rl(d4rl_columns([4, 3], rest=2))))
    for part in ("none to play in", "results will be raw returns", "dropped the last 2 steps"):
        assert part in shown


def test_a_set_is_converted_there_and_back(
    capsys: pytest.CaptureFixture[str], write_d4rl: WriteD4RL, tmp_path: Path
) -> None:
    path = write_d4rl(d4rl_columns([4, 3, 6], obs_dim=3, action_dim=1), env_id="Pendulum-v1", env_kwargs='{"g": 5.0}')
    said(capsys, "convert", str(path), "own/mine-v0")
    said(capsys, "convert", "own/mine-v0", str(tmp_path / "back.hdf5"))
    first, last = load_episodes(str(path)), load_episodes(str(tmp_path / "back.hdf5"))
    for field in ("observations", "actions", "rewards", "offsets", "terminated", "final_observations"):
        np.testing.assert_array_equal(getattr(first, field), getattr(last, field))
    assert (last.source.env_id, last.source.env_kwargs) == ("Pendulum-v1", {"g": 5.0})
    assert "exists already" in refused(capsys, "convert", "own/mine-v0", str(tmp_path / "back.hdf5"))
    assert "own/mine-v0 already" in refused(capsys, "convert", str(path), "own/mine-v0")
    assert "expected a Minari id" in refused(capsys, "convert", str(path), "mine")


def test_what_cannot_be_had_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.download.HOST", "http://127.0.0.1:9/")
    error = refused(capsys, "fetch", "hopper-medium-v2")
    assert "hopper-medium-v2 is not on this machine and could not be downloaded" in error
    assert "Did you mean" in refused(capsys, "show", "hoper_demo")
