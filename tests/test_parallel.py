"""Several processes that train one agent learn what one process would, and none outlives another's death by long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import new_agent, recorded

from agents import load_agent
from agents.checkpoint import newest_checkpoint, read_checkpoint
from agents.learner import Learner, LearningError
from agents.parallel import Ranks
from agents.windows import WindowSampler
from envs.evaluate import Evaluation, merged
from metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
SMALL = "backbone.hidden_size=16 backbone.num_layers=1 backbone.dropout=0 train.batch_size=8 agent.context_length=20"
SHORT = "train.num_steps=20 train.log_every=5 train.checkpoint_every=10 train.evaluate_every=10 optimizer.ema_decay=0"
EPISODES = "evaluate.num_episodes=3 evaluate.num_curve_episodes=2 num_threads=1 device=cpu"


def command(path: Path, num_processes: int, *more: str) -> list[str]:
    words = ["train_offline.py", *f"{SMALL} {SHORT} {EPISODES}".split(), f"run_dir={path}", *more]
    if num_processes == 1:
        return [sys.executable, *words]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    return [*torchrun, *words]


def run(path: Path, num_processes: int, *more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(path, num_processes, *more), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_checkpoint(newest_checkpoint(path))["agent.safetensors"]
    return found


def assert_alike(path: Path, other: Path, tolerance: float = 1e-4) -> None:
    """The same weights after the same steps, the same log, the same returns."""
    ours, theirs = weights(path), weights(other)
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() <= tolerance * theirs[name].abs().max(), name
    for row, expected in zip(read_metrics(path), read_metrics(other), strict=True):
        assert row.keys() == expected.keys()
        assert row["step"] == expected["step"]
        if "train/loss" in row:
            assert row["train/loss"] == pytest.approx(expected["train/loss"], rel=tolerance)
    results, expected = (json.loads((run_dir / "results.json").read_bytes()) for run_dir in (path, other))
    assert results["lengths"] == expected["lengths"]
    np.testing.assert_allclose(results["returns"], expected["returns"], rtol=0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parallel") / "alone"
    run(path, 1)
    return path


def test_two_processes_learn_what_one_does(tmp_path: Path, alone: Path) -> None:
    done = run(tmp_path / "two", 2)
    assert done.stdout.count("agent, mean of 3 episodes") == 1  # one of them speaks
    assert_alike(tmp_path / "two", alone)


@pytest.mark.fault("a resume with another number of processes")
@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, alone: Path, before: int, after: int) -> None:
    """The windows of a step are those of the whole batch, however many processes share them: none comes twice."""
    path = tmp_path / "run"
    process = subprocess.Popen(command(path, before), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    if not (path / "results.json").exists():
        done = run(path, after)
        assert "going on after step" in done.stdout
    assert_alike(path, alone)


def wait_for_checkpoint(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not [*(path / "checkpoints").glob("step_*")]:
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)


@pytest.mark.fault("one of several processes that train together is killed")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_others_end_when_one_dies(tmp_path: Path, rank: int) -> None:
    """Without torchrun, which would end them too: each has to notice by itself."""
    path = tmp_path / "run"
    port = str(29500 + os.getpid() % 2000 + rank)
    processes = []
    for index in range(2):
        place = {"RANK": str(index), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = command(path, 1, "train.num_steps=1000000", "train.evaluate_every=0")
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(words, cwd=ROOT, env={**os.environ, **place}, **silent))  # type: ignore[call-overload]
    try:
        wait_for_checkpoint(path)
        processes[rank].send_signal(signal.SIGKILL)
        assert processes[1 - rank].wait(60) != 0
    finally:
        for process in processes:
            process.kill()
    load_agent(path)  # the newest checkpoint is whole
    assert not (path / "results.json").exists()


def new_learner(ranks: Ranks | None = None, *, packed: bool = False, **settings: Any) -> Learner:
    episodes = recorded()
    usual = {"learning_rate": 0.01, "warmup_steps": 2, "schedule": "constant", "weight_decay": 0.0}
    limits = {"max_grad_norm": 1.0, "ema_decay": 0.0, "seed": 3, "batch_size": 7, "num_steps": 5}
    sampler = WindowSampler(episodes, context_length=5, packed=packed)
    return Learner(new_agent(episodes), sampler, ranks=ranks, **{**usual, **limits, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("accumulate", [2, 7])
def test_a_step_in_parts_is_the_same_step(accumulate: int, packed: bool) -> None:
    whole, parts = new_learner(packed=packed), new_learner(packed=packed, accumulate=accumulate)
    for step in range(5):
        expected, found = whole.update(step), parts.update(step)
        assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    for ours, theirs in zip(parts.agent.parameters(), whole.agent.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_half_precision_learns_about_the_same() -> None:
    exact, half = new_learner(), new_learner(precision="bf16")
    for step in range(5):
        expected, found = exact.update(step), half.update(step)
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=0.05)
    assert found["loss"].item() != expected["loss"].item()
    assert all(parameter.dtype == torch.float32 for parameter in half.agent.parameters())


def test_shares_are_all_there_is() -> None:
    starts = np.arange(11)
    shares = [Ranks(rank, 3).share(starts) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares), starts)


def test_fewer_windows_than_processes_are_refused() -> None:
    with pytest.raises(LearningError, match=r"batch_size must be at least one window for each of 1 processes and 8"):
        new_learner(accumulate=8)


def played(seeds: list[int], successes: list[bool] | None, failures: dict[int, str] | None = None) -> Evaluation:
    numbers = np.array(seeds, np.float64)
    said = None if successes is None else np.array(successes, np.bool_)
    return Evaluation(numbers, numbers.astype(np.int64), said, numbers.astype(np.int64), failures or {}, 1.0, 0.5)


def test_episodes_of_several_processes_are_one_evaluation() -> None:
    found = merged([played([3, 4], [True, False]), played([], None), played([6], [True], {5: "fell"})])
    assert found.seeds.tolist() == [3, 4, 6]
    assert found.successes is not None
    assert found.successes.tolist() == [True, False, True]
    assert found.failures == {5: "fell"}
    nothing = merged([played([], None), played([], None)])
    assert len(nothing.returns) == 0
    assert nothing.successes is None
