"""A video where it can be drawn, and a line of advice where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_train_offline import run

import evaluate

ROOT = Path(__file__).resolve().parent.parent


def test_an_evaluation_sweeps_targets_and_refuses_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path, "agent=decision_transformer")
    before = (path / "results.json").read_bytes()
    settings = [f"run_dir={path}", "num_episodes=2", "num_envs=2", "num_threads=1"]
    evaluate.main([*settings, "target_sweep=[100,2000]"])
    sweep = json.loads((path / "target_sweep.json").read_text())
    assert [point["target_return"] for point in sweep["points"]] == [100.0, 2000.0]
    assert all(len(point["returns"]) == 2 for point in sweep["points"])
    assert sweep["declared"] == 3000.0
    assert (path / "results.json").read_bytes() == before
    with pytest.raises(SystemExit) as exit_:
        evaluate.main([*settings, "target_sweep=many"])
    assert exit_.value.code == 2
    assert "target_sweep must be a number of returns" in capsys.readouterr().err


@pytest.mark.fault("no display for a video")
@pytest.mark.slow
@pytest.mark.parametrize(("renderer", "drawn"), [("egl", True), ("glfw", False)])
def test_a_video_is_drawn_or_the_way_to_one_is_told(tmp_path: Path, renderer: str, drawn: bool) -> None:
    pytest.importorskip("imageio_ffmpeg")
    path = run(tmp_path)
    command = [sys.executable, str(ROOT / "evaluate.py"), f"run_dir={path}", "num_episodes=1", "video=true"]
    environment = {"PATH": "/usr/bin:/bin", "MUJOCO_GL": renderer, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert "agent, mean of 1 episodes" in done.stdout
    assert (path / "video.mp4").is_file() == drawn
    if not drawn:
        assert "MUJOCO_GL=egl" in done.stderr
        assert "Traceback" not in done.stderr
