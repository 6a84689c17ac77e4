"""Sweeps through Hydra's launchers: each job is the run it would be alone, and one that is preempted goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.checkpoint import newest_checkpoint
from config import ConfigError
from config_overrides import Composer
from metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
SMALL = "task=hopper_demo backbone.hidden_size=16 backbone.num_layers=1 train.batch_size=8 agent.context_length=20"
SHORT = "train.num_steps=6 train.log_every=2 train.evaluate_every=0 evaluate.num_episodes=1"
pytestmark = pytest.mark.slow


def command(path: Path, *words: str) -> list[str]:
    return [sys.executable, "train_offline.py", *f"{SMALL} {SHORT}".split(), f"run_dir={path}", *words]


def sweep(path: Path, *words: str, expected: int = 0) -> str:
    done = subprocess.run(
        command(path, "-m", *words), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stderr


def launcher(name: str, path: Path) -> list[str]:
    more = {"slurm_local": [f"hydra.launcher.submitit_folder={path}/jobs/%j"]}
    return [f"+launcher={name}", *more.get(name, [])]


def returns(path: Path) -> dict[int, list[float]]:
    """By seed."""
    found = {}
    for file in path.rglob("results.json"):
        seed = json.loads((file.parent / "config.json").read_bytes())["seed"]
        found[seed] = json.loads(file.read_bytes())["returns"]
    return found


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep")
    sweep(path, "seed=0,1", "num_threads=1")
    return path


@pytest.mark.parametrize("name", ["joblib", "slurm_local", "ray"])
def test_every_launcher_runs_the_same_runs(name: str, tmp_path: Path, one_after_the_other: Path) -> None:
    sweep(tmp_path, "seed=0,1", *launcher(name, tmp_path))
    assert returns(tmp_path) == returns(one_after_the_other)
    page = tmp_path / "page.html"
    report = [sys.executable, "report.py", str(tmp_path), "--out", str(page)]
    done = subprocess.run(report, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["joblib", "slurm_local"])
def test_a_job_that_fails_is_said_and_the_others_run(name: str, tmp_path: Path) -> None:
    said = sweep(tmp_path, "train.batch_size=2,8", "train.accumulate=3", *launcher(name, tmp_path), expected=1)
    assert "train.batch_size must be at least one window" in said
    assert "Traceback" not in said
    assert len(returns(tmp_path)) == 1


def pid_of_job(folder: Path) -> int:
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and any(str(folder) in word for word in words):
            return int(process.name)
    raise AssertionError(f"no job of {folder} is running")


def test_a_preempted_job_is_queued_again_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """SIGUSR2 is what Slurm is told to send before it ends a job."""
    words = ["train.num_steps=300", "train.checkpoint_every=10"]
    whole = subprocess.run(
        command(tmp_path / "whole", "num_threads=1", *words), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert whole.returncode == 0, whole.stderr
    path = tmp_path / "preempted"
    jobs = subprocess.Popen(
        command(path, "-m", "seed=0", *launcher("slurm_local", path), *words),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not [*path.rglob("checkpoints/step_*")]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(pid_of_job(path / "jobs"), signal.SIGUSR2)
    assert jobs.wait(180) == 0
    logs = "".join(file.read_text() for file in (path / "jobs").rglob("*log.*"))
    assert "Requeued job" in logs
    assert "going on after step" in logs
    (results,) = path.rglob("results.json")
    ours, theirs = results.parent, tmp_path / "whole"
    assert read_metrics(ours) == read_metrics(theirs)
    name = "agent.safetensors"
    assert (newest_checkpoint(ours) / name).read_bytes() == (newest_checkpoint(theirs) / name).read_bytes()


@pytest.mark.parametrize("name", ["joblib", "slurm", "slurm_local", "ray"])
def test_every_launcher_composes(name: str) -> None:
    assert Composer("train_offline").config([f"+launcher={name}"])["seed"] == 0


def test_a_launcher_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.config_store import ConfigStore

    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(launchers, "submitit_slurm.yaml")
    with pytest.raises(ConfigError, match=r'pip install "minrnn-rl\[slurm\]"'):
        Composer("train_offline").config(["+launcher=slurm"])
