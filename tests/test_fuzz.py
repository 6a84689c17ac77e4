"""Anything as a command line, a config, a dataset, a checkpoint or a run directory: it works, or one clear error.

Hypothesis makes the inputs; how many were tried is in docs/reliability.md. The short pass tries the same ones every
time, the long one (`-m slow`) others at each run.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import d4rl_columns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from test_checkpoint import save as save_agent
from test_no_code_runs import replace_file
from test_train_offline import SMALL
from toys import new_agent, recorded

import evaluate
import report
import train_offline
from agents import CheckpointError, load_agent
from agents.building import AgentError
from agents.checkpoint import FILES, newest_checkpoint
from config import command_line, dotted_keys
from config_overrides import Composer
from envs import DataError, load_episodes

pytestmark = pytest.mark.filterwarnings("default")  # what a strange input makes numpy say is no failure of ours

Fuzz = Callable[[st.SearchStrategy[Any], Callable[[Any], None], int], None]
LONG_PASS = 20  # times as many inputs


@pytest.fixture(params=["short", pytest.param("long", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def fuzz(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Fuzz:
    """fuzz(inputs, check, count): checks that many inputs, and counts them."""
    is_long = request.param == "long"

    def attempt_all(inputs: st.SearchStrategy[Any], check: Callable[[Any], None], count: int) -> None:
        tried = 0

        @settings(
            max_examples=count * (LONG_PASS if is_long else 1),
            deadline=None,
            database=None,
            derandomize=not is_long,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def attempt(value: Any) -> None:
            nonlocal tried
            tried += 1
            check(value)

        attempt()
        record_property("tried", tried)

    return attempt_all


def assert_works_or_explains(
    command: Callable[[list[str]], None], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> bool:
    """Whether the command worked; if not, it must have said why in one message."""
    capsys.readouterr()
    status: Any = 0
    try:
        command(arguments)
    except SystemExit as stop:
        status = stop.code or 0
    said = capsys.readouterr().err
    assert status in (0, 1, 2), said
    assert status == 0 or "error: " in said, said
    assert "Traceback" not in said
    return status == 0


# What people and machines write by mistake.

numbers = st.sampled_from(
    ["0", "-1", "1", "2", "7", "0.5", "1e-9", "-0.0", "nan", "inf", "-inf", "1e400", "0x10", "1_0"]
)
WORDS = (
    "null true '' ' \" [] {} [1,2] {a:1} { ] gru ../x ${nope} ${ ${seed} a,b 1,2 choice(1,2) range(1,3) glob(*) int(x) "
    "= == ~ # \\ é !!"
)
words = st.sampled_from([*WORDS.split(" "), "\n", "\x00", "{a: 1}"])
values = numbers | words | st.text(max_size=6)
keys = st.sampled_from(sorted(key for key, _ in dotted_keys(Composer("train_offline").config([])))) | st.sampled_from(
    [
        "task",
        "backbone",
        "agent",
        "experiment",
        "tuned",
        "scaled",
        "train",
        "evaluate",
        "nope",
        "",
        ".",
        "seed.x",
        "a.b",
    ]
)
overrides = st.tuples(st.sampled_from(["", "", "", "+", "++", "~", "@", " "]), keys, values).map(
    lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
) | st.text(max_size=8).filter(lambda text: not text.startswith("-"))


@pytest.mark.fault("anything as an override (hypothesis)")
def test_any_override_is_read_or_refused(fuzz: Fuzz, capsys: pytest.CaptureFixture[str]) -> None:
    command = command_line("train_offline")(lambda config: None)
    fuzz(st.lists(overrides, max_size=3), lambda given: assert_works_or_explains(command, given, capsys) and None, 150)


@pytest.mark.fault("anything as a config (hypothesis): it trains and is scored, or is refused")
def test_any_config_that_is_accepted_trains(
    fuzz: Fuzz, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = [*SMALL, "train.num_steps=2", "evaluate.num_episodes=1", "train.evaluate_every=0"]
    choices = st.sampled_from([f"backbone={name}" for name in ("attention", "gru", "lstm", "min_lstm", "min_gru")])
    places = ("run_dir", "num_threads", "task.", "dataset", "device", "train.num_steps", "evaluate.num_workers")
    values_of = st.tuples(keys.filter(lambda key: not key.startswith(places)), numbers | words).map("=".join)

    def check(given: list[str]) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        if assert_works_or_explains(train_offline.main, [*quick, "run_dir=run", *given], capsys):
            json.loads((tmp_path / "run" / "results.json").read_text())

    fuzz(st.tuples(choices, values_of, values_of).map(list), check, 25)


# Bytes and JSON that were changed by somebody or something.

json_junk = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(-2, 2)
    | st.sampled_from(["", "x", [], {}, [1], {"a": 1}])
)
damages = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "delete", "zero"]),
    st.floats(0, 0.9999),
    st.binary(min_size=1, max_size=8),
)


def damaged(data: bytes, damage: tuple[str, float, bytes]) -> bytes:
    kind, share, junk = damage
    at = int(share * len(data))
    changed = {
        "flip": data[:at] + bytes([data[at] ^ (junk[0] or 1)]) + data[at + 1 :] if data else junk,
        "cut": data[:at],
        "insert": data[:at] + junk + data[at:],
        "delete": data[:at] + data[at + len(junk) :],
        "zero": data[:at] + bytes(len(junk)) + data[at + len(junk) :],
    }
    return changed[kind]


def with_junk(value: Any, at: float, junk: Any) -> Any:
    """The JSON value with one of its parts, chosen by 0 <= at < 1, replaced by junk."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
            places.append((part, key))
            walk(inner)

    copy = json.loads(json.dumps(value))
    walk(copy)
    if not places:
        return junk
    part, key = places[int(at * len(places))]
    if junk == "x" and isinstance(part, dict):
        del part[key]
    else:
        part[key] = junk
    return copy


def load_and_act(path: Path) -> None:
    """An agent that loads acts, too."""
    agent = load_agent(path)
    agent.reset(1, 5.0)
    for _ in range(2):
        agent.act(np.ones((1, 4)), np.zeros(1))


@pytest.mark.fault("any damage to a checkpoint's bytes (hypothesis): refused, or the damage was none")
def test_a_checkpoint_with_other_bytes_is_refused(fuzz: Fuzz, tmp_path: Path) -> None:
    checkpoint = save_agent(tmp_path, new_agent(recorded()))
    names = st.sampled_from([*FILES, "manifest.json"])

    def check(given: tuple[str, tuple[str, float, bytes]]) -> None:
        path = checkpoint / given[0]
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, given[1]))
        try:
            if path.read_bytes() != whole and given[0] != "manifest.json":
                with pytest.raises(CheckpointError):
                    load_agent(tmp_path)
            else:  # white space in a manifest may change
                with suppress(CheckpointError):
                    load_and_act(tmp_path)
        finally:
            path.write_bytes(whole)

    fuzz(st.tuples(names, damages), check, 150)


@pytest.mark.fault("any description in a checkpoint (hypothesis): an agent that acts, or refused")
@pytest.mark.parametrize("name", ["agent.json", "manifest.json"])
def test_a_checkpoint_with_another_description_is_understood_or_refused(fuzz: Fuzz, tmp_path: Path, name: str) -> None:
    checkpoint = save_agent(tmp_path, new_agent(recorded(), token_layout="interleaved", max_timesteps=9))
    path = checkpoint / name
    whole = json.loads(path.read_text())

    def check(given: tuple[float, Any]) -> None:
        changed = json.dumps(with_junk(whole, *given)).encode()
        if name == "manifest.json":
            path.write_bytes(changed)
        else:
            replace_file(checkpoint, name, changed)
        with suppress(CheckpointError, AgentError):
            load_and_act(tmp_path)

    fuzz(st.tuples(st.floats(0, 0.9999), json_junk), check, 100)


@pytest.mark.fault("other tensors in a checkpoint (hypothesis): refused")
def test_a_checkpoint_with_other_tensors_is_refused(fuzz: Fuzz, tmp_path: Path) -> None:
    checkpoint = save_agent(tmp_path, new_agent(recorded()))
    whole = (checkpoint / "agent.safetensors").read_bytes()
    names = sorted(load(whole))

    def check(given: tuple[str, str]) -> None:
        name, change = given
        tensors = load(whole)
        old = tensors.pop(name)
        if change == "renamed":
            tensors[name + "x"] = old
        elif change == "another shape":
            tensors[name] = torch.zeros(*old.shape, 2)
        elif change == "complex":
            tensors[name] = torch.zeros(old.shape, dtype=torch.complex64)
        elif change == "nan":
            tensors[name] = torch.full(old.shape, math.nan)
        replace_file(checkpoint, "agent.safetensors", save(tensors))
        with pytest.raises((CheckpointError, AgentError)):
            load_and_act(tmp_path)

    changes = ["gone", "renamed", "another shape", "complex", "nan"]
    fuzz(st.tuples(st.sampled_from(names), st.sampled_from(changes)), check, 60)


columns = st.sampled_from(
    ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations", "infos/x"]
)
dtypes = st.sampled_from(["f4", "f8", "f2", "i1", "i8", "u1", "?", "c8", "S3", "object", "group", "gone", "empty"])
shapes = st.sampled_from([(), (0,), (1,), (7,), (8,), (7, 1), (7, 3), (0, 3), (7, 0), (7, 2, 2), (9, 2)])
fills = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e300, math.nan, math.inf])


def write_column(file: h5py.File, name: str, dtype: str, shape: tuple[int, ...], fill: float) -> None:
    if name in file:
        del file[name]
    if dtype == "group":
        file.create_group(name)
    elif dtype == "empty":
        file[name] = h5py.Empty("f4")
    elif dtype == "object":
        file.create_dataset(name, shape, dtype=h5py.string_dtype())
    elif dtype != "gone":
        with np.errstate(all="ignore"):
            file[name] = np.full(shape, fill).astype(dtype)


@pytest.mark.fault("any columns in an HDF5 file (hypothesis): episodes, or refused")
def test_any_columns_are_episodes_or_refused(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"

    def check(given: tuple[list[tuple[str, str, tuple[int, ...], float]], bool]) -> None:
        with h5py.File(path, "w") as file:
            for name, column in d4rl_columns([3, 1], rest=3).items():
                file[name] = column
            for change in given[0]:
                write_column(file, *change)
        with suppress(DataError):
            episodes = load_episodes(str(path), drop_invalid=given[1])
            assert np.isfinite(episodes.observations).all()
            assert np.isfinite(episodes.returns).all()
            assert len(episodes.observations) == len(episodes.actions) == len(episodes.rewards)

    fuzz(st.tuples(st.lists(st.tuples(columns, dtypes, shapes, fills), max_size=3), st.booleans()), check, 150)


@pytest.mark.fault("any damage to an HDF5 file (hypothesis): episodes, or refused")
def test_an_hdf5_file_with_other_bytes_is_read_or_refused(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, column in d4rl_columns([3, 1, 40], rest=3).items():
            file.create_dataset(name, data=column, compression="gzip")
    whole = path.read_bytes()

    def check(given: list[tuple[str, float, bytes]]) -> None:
        data = whole
        for damage in given:
            data = damaged(data, damage)
        path.write_bytes(data)
        with suppress(DataError):
            episodes = load_episodes(str(path))
            assert np.isfinite(episodes.observations).all()

    fuzz(st.lists(damages, min_size=1, max_size=4), check, 150)


@pytest.mark.fault("anything in the files of a run directory (hypothesis): read, or refused")
def test_a_run_directory_with_other_files_is_read_or_refused(
    fuzz: Fuzz, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    settings_ = [*SMALL, "train.num_steps=4", "evaluate.num_episodes=1", "train.evaluate_every=2"]
    train_offline.main([*settings_, f"run_dir={whole}"])
    names = st.sampled_from(
        ["config.json", "task.json", "results.json", "metrics.jsonl", "agent.json", "training.json"]
    )
    commands = {
        "evaluate": (evaluate.main, [f"run_dir={hurt}", "num_episodes=1", "num_envs=1", "num_threads=1"]),
        "report": (report.main, [str(hurt), "--out", str(tmp_path / "report.html")]),
        "train": (train_offline.main, [*settings_, f"run_dir={hurt}"]),
    }

    def check(given: tuple[str, float, Any, tuple[str, float, bytes] | None, str]) -> None:
        name, at, junk, damage, command = given
        shutil.rmtree(hurt, ignore_errors=True)
        shutil.copytree(whole, hurt)
        if name in FILES:  # a checkpoint that is whole and wrong, of a run that is not finished
            (hurt / "results.json").unlink()
            checkpoint = newest_checkpoint(hurt)
            changed = with_junk(json.loads((checkpoint / name).read_text()), at, junk)
            replace_file(checkpoint, name, json.dumps(changed).encode())
            assert_works_or_explains(*commands[command], capsys)
            return
        text = (whole / name).read_text()
        if damage is not None:
            (hurt / name).write_bytes(damaged(text.encode(), damage))
        else:
            lines = text.splitlines() if name == "metrics.jsonl" else [text]
            lines[0] = json.dumps(with_junk(json.loads(lines[0]), at, junk))
            (hurt / name).write_text("\n".join(lines))
        assert_works_or_explains(*commands[command], capsys)

    fuzz(
        st.tuples(names, st.floats(0, 0.9999), json_junk, st.none() | damages, st.sampled_from(sorted(commands))),
        check,
        20,
    )
