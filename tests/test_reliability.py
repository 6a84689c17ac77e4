"""Runs that are stopped, killed, starved and lied to: what they lose is at most the step they were in."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_metrics import tensorboard_steps
from test_train_offline import SMALL, run
from toys import BACKBONES

import train_offline
from agents import load_agent
from agents.checkpoint import newest_whole_checkpoint

ROOT = Path(__file__).resolve().parent.parent
LONG = [
    *SMALL,
    "train.num_steps=400",
    "train.checkpoint_every=7",
    "train.evaluate_every=0",
    "train.log_every=3",
    "agent.acting_mode=carried",
    "evaluate.num_episodes=1",
]
WHEN_NOT_TOLD = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def start(run_dir: Path, *overrides: str, before: str = "", alone: bool = False) -> subprocess.Popen[str]:
    """The run as a process of its own; `before` is code that it executes first. alone: in a group of its own."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{before}\nimport train_offline\ntrain_offline.main(sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *LONG, f"run_dir={run_dir}", *overrides],
        env={**os.environ, **WHEN_NOT_TOLD},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=alone,
    )


def wait_for_step(process: subprocess.Popen[str], run_dir: Path, step: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        lines = (run_dir / "metrics.jsonl").read_text().splitlines() if (run_dir / "metrics.jsonl").exists() else []
        if any(json.loads(line)["step"] >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.02)
    raise AssertionError("it never got there")


def outcome(run_dir: Path) -> tuple[str, str, Any]:
    """All that must be equal, bit for bit: weights and optimizer, metrics, returns."""
    newest = sorted((run_dir / "checkpoints").glob("step_*"))[-1]
    results = json.loads((run_dir / "results.json").read_text())
    return (newest / "manifest.json").read_text(), (run_dir / "metrics.jsonl").read_text(), results["returns"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Any]:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    process = start(run_dir)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    return outcome(run_dir)


def finish(run_dir: Path) -> str:
    process = start(run_dir)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    return said


@pytest.mark.fault("a signal: SIGTERM and SIGINT save and end")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_run_told_to_end_saves_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, name: str, undisturbed: tuple[str, str, Any]
) -> None:
    process = start(tmp_path / "run")
    wait_for_step(process, tmp_path / "run", 30)
    process.send_signal(getattr(signal, name))
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + getattr(signal, name), said
    assert "Traceback" not in said
    assert "going on after step" in finish(tmp_path / "run")
    assert outcome(tmp_path / "run") == undisturbed


@pytest.mark.fault("a signal: SIGUSR1 and SIGUSR2 save, and whoever listened before still hears")
def test_a_run_told_to_save_saves_and_goes_on(tmp_path: Path, undisturbed: tuple[str, str, Any]) -> None:
    heard = tmp_path / "heard"
    before = f"import signal; signal.signal(signal.SIGUSR1, lambda *_: open({str(heard)!r}, 'w').close())"
    process = start(tmp_path / "run", "train.checkpoint_every=1000", before=before)
    wait_for_step(process, tmp_path / "run", 30)
    process.send_signal(signal.SIGUSR1)
    until = time.monotonic() + 20
    while not list(tmp_path.glob("run/checkpoints/step_*")) and time.monotonic() < until:
        time.sleep(0.02)
    (saved,) = [path for path in tmp_path.glob("run/checkpoints/step_*") if not path.name.endswith("400")]
    assert load_agent(saved) is not None
    assert heard.exists()
    process.communicate(timeout=100)
    assert process.returncode == 0
    assert outcome(tmp_path / "run")[1:] == undisturbed[1:]


@pytest.mark.fault("a signal to every process of a run: those of its environments leave it to the run")
def test_processes_of_environments_leave_signals_to_the_run(tmp_path: Path) -> None:
    words = ["train.num_steps=3", "train.evaluate_every=1", "evaluate.num_workers=2", "evaluate.num_envs=2"]
    words += ["evaluate.num_episodes=2", "evaluate.num_curve_episodes=2"]
    process = start(tmp_path / "run", *words, alone=True)
    log = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 3, "score' in log.read_text()):
        if log.exists():  # it listens
            os.killpg(process.pid, signal.SIGUSR1)
        time.sleep(0.05)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["failures"] == []
    assert len(results["returns"]) == 2
    scores = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in scores if "score/return_mean" in row] == [1, 2, 3]


@pytest.mark.fault("a second signal: ends at once, but never tears a save")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_at_once_but_not_within_a_save(tmp_path: Path, name: str) -> None:
    slow_save = """
import agents.checkpoint, time, sys
whole = agents.checkpoint._write_synced
def slow(path, data):
    print("SAVING", flush=True); time.sleep(0.3); whole(path, data)
agents.checkpoint._write_synced = slow
"""
    process = start(tmp_path / "run", before=slow_save)
    assert process.stdout is not None
    for line in process.stdout:
        if "SAVING" in line:
            break
    for _ in range(2):
        process.send_signal(getattr(signal, name))
        time.sleep(0.1)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + getattr(signal, name), said
    files, damaged = newest_whole_checkpoint(tmp_path / "run")
    assert files is not None
    assert damaged == []
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def kill_at_random(tmp_path: Path, kills: int, undisturbed: tuple[str, str, Any]) -> None:
    """Kills the same run again and again, until it has got to its end all the same."""
    rng, run_dir, reached = random.Random(0), tmp_path / "run", 0
    for _ in range(kills):
        process = start(run_dir)
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0.0, 2.0))  # while it starts
        else:
            until = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until:
                if (run_dir / "run.lock").exists() and any(run_dir.glob("checkpoints/.*.partial")):
                    break
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        process.communicate()
        if (run_dir / "checkpoints").is_dir() and any((run_dir / "checkpoints").glob("step_*")):
            files, damaged = newest_whole_checkpoint(run_dir)
            assert damaged == []
            assert files is not None
            assert files["training.json"]["step"] >= reached
            reached = files["training.json"]["step"]
        if (run_dir / "results.json").exists():
            assert outcome(run_dir) == undisturbed
            shutil.rmtree(run_dir)
            reached = 0
    finish(run_dir)
    assert outcome(run_dir) == undisturbed
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert tensorboard_steps(run_dir, "train/loss") == [*range(3, 400, 3), 400]
    assert not list((run_dir / "checkpoints").glob(".*"))


@pytest.mark.fault("kill -9 at a random instant")
def test_a_few_kills_lose_nothing(tmp_path: Path, undisturbed: tuple[str, str, Any]) -> None:
    kill_at_random(tmp_path, 2, undisturbed)


@pytest.mark.slow
@pytest.mark.fault("kill -9 at a random instant, 50 times")
def test_fifty_kills_lose_nothing(tmp_path: Path, undisturbed: tuple[str, str, Any]) -> None:
    kill_at_random(tmp_path, 50, undisturbed)


@pytest.mark.fault("a kill at each file operation of a save")
def test_a_kill_at_each_file_operation_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """In children that die, by os._exit, at their n-th call that touches a file of the second save."""
    code = f"""
import os, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
from pathlib import Path
import torch
from toys import new_agent, recorded
from agents import checkpoint
torch.set_num_threads(1)
agent = new_agent(recorded())
def save(run_dir, step):
    checkpoint.save_checkpoint(run_dir, step, agent.describe(), agent.state_dict(), {{"x": torch.ones(2)}}, keep=1)
def dying(call):
    def wrapped(*arguments, **keywords):
        global left
        left -= 1
        if left < 0: os._exit(9)
        return call(*arguments, **keywords)
    return wrapped
for left in range(200):
    run_dir = Path(sys.argv[1]) / str(left)
    save(run_dir, 1)
    child = os.fork()
    if child == 0:
        for name in ("fsync", "rename", "mkdir", "open", "rmdir", "unlink"): setattr(os, name, dying(getattr(os, name)))
        Path.open, Path.rename = dying(Path.open), dying(Path.rename)
        save(run_dir, 2)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0: break
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    runs = sorted(tmp_path.iterdir())
    assert len(runs) > 10
    for run_dir in runs:
        files, _ = newest_whole_checkpoint(run_dir)
        assert files is not None, run_dir
    whole, _ = newest_whole_checkpoint(tmp_path / str(len(runs) - 1))
    assert whole is not None
    assert whole["training.json"]["step"] == 2


INTERLEAVED = "agent=decision_transformer agent.token_layout=interleaved"
RESUMED = [
    *(pytest.param(f"backbone={name}", id=name) for name in sorted(BACKBONES)),
    *(
        pytest.param(
            f"backbone={name} {INTERLEAVED}",
            id=f"{name}, interleaved",
            marks=[] if name in ("min_gru", "attention") else pytest.mark.slow,
        )
        for name in sorted(BACKBONES)
    ),
    pytest.param("agent=value_guided", id="critics"),
    pytest.param("agent=ensemble train.packed=true", id="ensemble, packed"),
]


@pytest.mark.fault("resume: every backbone, token layout and agent, bit for bit")
@pytest.mark.parametrize("words_of_config", RESUMED)
def test_a_run_resumed_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words_of_config: str
) -> None:
    from agents.learner import Learner

    words = [*words_of_config.split(), "train.num_steps=9", "train.checkpoint_every=3"]
    words += ["train.log_every=1", "train.evaluate_every=3", "evaluate.num_episodes=1"]
    whole, update = run(tmp_path, *words, name="whole"), Learner.update
    for stop_at in (3, 5):  # just after a checkpoint and a point of the curve, and between them

        def stop(self: Learner, step: int, stop_at: int = stop_at) -> object:
            if step == stop_at:
                raise KeyboardInterrupt
            return update(self, step)

        monkeypatch.setattr(Learner, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *words, name=f"cut{stop_at}")
        monkeypatch.setattr(Learner, "update", update)
        assert outcome(run(tmp_path, *words, name=f"cut{stop_at}")) == outcome(whole)


@pytest.mark.fault("a checkpoint that is cut, flipped or incomplete: the one before is taken, and it is said")
@pytest.mark.parametrize("harm", ["cut", "flipped", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    whole = outcome(run(tmp_path, name="whole"))
    path = run(tmp_path, name="hurt")
    (path / "results.json").unlink()
    newest = path / "checkpoints" / "step_00000020"
    victim = newest / ("manifest.json" if harm == "no manifest" else "training.safetensors")
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    if harm in ("missing", "no manifest"):
        victim.unlink()
    else:
        victim.write_bytes(data[: len(data) // 2] if harm == "cut" else data)
    capsys.readouterr()
    run(tmp_path, name="hurt")
    said = capsys.readouterr()
    assert "not resumed from" in said.err
    assert victim.name in said.err
    assert "going on after step 10" in said.out
    assert outcome(path) == whole


@pytest.mark.fault("no whole checkpoint at all: refused")
def test_a_run_with_damaged_checkpoints_alone_is_not_begun_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path)
    (path / "results.json").unlink()
    for manifest in path.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path)
    assert exit_.value.code == 1
    assert "no checkpoint in" in capsys.readouterr().err


@pytest.mark.fault("NaN or infinity in the gradient: the run stops, or skips the step")
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_gradient_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    from agents.decision_transformer import DecisionTransformer

    loss, calls = DecisionTransformer.loss, []

    def poisoned(self: DecisionTransformer, batch: Any) -> Any:
        calls.append(1)
        value, metrics = loss(self, batch)
        return (value * float("nan") if len(calls) == 13 else value), metrics

    monkeypatch.setattr(DecisionTransformer, "loss", poisoned)
    if policy == "skip":
        path = run(tmp_path, "train.when_not_finite=skip", "train.log_every=1")
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if row.get("train/skipped")] == [13]
        assert json.loads((path / "results.json").read_text())["returns"]
        return
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path)
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert "step 13: the loss is nan" in said
    assert "Its batch was of episodes" in said
    files, _ = newest_whole_checkpoint(tmp_path / "run")
    assert files is not None
    assert files["training.json"]["step"] == 10


@pytest.mark.fault("out of memory: told what to change, and the checkpoints stay")
@pytest.mark.parametrize("at", ["the first step", "a later step"])
def test_a_lack_of_memory_names_the_settings_to_change(tmp_path: Path, at: str) -> None:
    """The process may have 400 MB more than it has by then; a batch of a million windows needs more."""
    before = f"""
import resource
from agents.learner import Learner
update = Learner.update
def hungry(self, step):
    if step == {0 if at == "the first step" else 10}:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
        self.batch_size = 1_000_000
    return update(self, step)
Learner.update = hungry
"""
    process = start(tmp_path / "run", before=before)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 1, said
    assert "error: out of memory" in said
    assert "train.batch_size (now 4)" in said
    assert "Traceback" not in said
    files, damaged = newest_whole_checkpoint(tmp_path / "run")
    assert damaged == []
    assert (files is None) == (at == "the first step")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", str(path)], check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=False)


@pytest.mark.slow
@pytest.mark.fault("the disk is full")
def test_a_full_disk_is_said_and_the_older_checkpoint_stays(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["agent=filtered_bc", "backbone.hidden_size=24", "train.checkpoint_every=1"]
    with pytest.raises(SystemExit) as exit_:
        train_offline.main([*SMALL, f"run_dir={small_disk / 'run'}", *words])
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert "could not be written" in said
    assert "No space left" in said
    files, _ = newest_whole_checkpoint(small_disk / "run")
    assert files is not None


@pytest.mark.slow
@pytest.mark.fault("the directory is read-only")
def test_a_read_only_directory_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)], check=False).returncode:
        pytest.skip("only root can mount a read-only folder")
    monkeypatch.setattr(train_offline, "load_task", None)
    try:
        with pytest.raises(SystemExit) as exit_:
            train_offline.main([*SMALL, f"run_dir={place / 'run'}"])
        assert exit_.value.code == 1
        assert "cannot write to run_dir" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.fault("a lock that a killed run left")
def test_a_lock_left_by_a_killed_run_holds_nobody_up(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    wait_for_step(process, tmp_path / "run", 9)
    other = start(tmp_path / "run")
    said, _ = other.communicate(timeout=60)
    assert other.returncode == 1
    assert "another run is live" in said
    process.kill()
    process.communicate()
    finish(tmp_path / "run")


@pytest.mark.fault("spaces, accents, another umask and locale")
def test_odd_places_are_places_too(tmp_path: Path, undisturbed: tuple[str, str, Any]) -> None:
    run_dir = tmp_path / "mÿ rün {1}" / "größe #2"
    process = start(run_dir, before="import os, locale; os.umask(0o077); os.environ['LC_ALL'] = 'C'")
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert outcome(run_dir) == undisturbed
