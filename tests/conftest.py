"""Small recordings to read: HDF5 in D4RL's exact layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from minrnn import scan

# Tests run side by side: processes that each use every core are many times slower than processes with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
scan.set_num_threads(1)

WriteD4RL = Callable[..., Path]
FAULTS = pytest.StashKey[dict[str, dict[str, list[tuple[str, int]]]]]()  # case -> test -> (outcome, inputs tried)


def d4rl_columns(lengths: list[int], obs_dim: int = 3, action_dim: int = 2, rest: int = 0) -> dict[str, NDArray[Any]]:
    """Columns of episodes of these lengths, alternately terminated and timed out, then `rest` steps without an end."""
    num_steps = sum(lengths) + rest
    random = np.random.default_rng(0)
    columns: dict[str, NDArray[Any]] = {
        "observations": random.normal(size=(num_steps, obs_dim)).astype(np.float32),
        "next_observations": random.normal(size=(num_steps, obs_dim)).astype(np.float32),
        "actions": random.uniform(-1, 1, (num_steps, action_dim)).astype(np.float32),
        "rewards": random.normal(size=num_steps).astype(np.float32),
        "terminals": np.zeros(num_steps, np.bool_),
        "timeouts": np.zeros(num_steps, np.bool_),
    }
    ends = np.cumsum(lengths, dtype=np.int64) - 1
    columns["terminals"][ends[::2]] = True
    columns["timeouts"][ends[1::2]] = True
    return columns


@pytest.fixture
def write_d4rl(tmp_path: Path) -> WriteD4RL:
    """write_d4rl(columns, name="mine.hdf5", **attributes) -> path."""

    def write(columns: dict[str, NDArray[Any]], name: str = "mine.hdf5", **attributes: Any) -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, column in columns.items():
                file.create_dataset(key, data=column, compression="gzip" if column.ndim else None)
            file.attrs.update(attributes)
        return path

    return write


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets that a test opens are cached for that test alone."""
    monkeypatch.setenv("MINRNN_RL_CACHE", str(tmp_path_factory.mktemp("cache")))


# A page of what a run survives, made by the tests themselves: pytest tests -m fault --reliability FILE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", help="write the outcome of every test of a fault into this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    marker = item.get_closest_marker("fault")
    if marker is not None and (report.when == "call" or report.outcome != "passed"):
        cases = item.config.stash[FAULTS].setdefault(marker.args[0], {})
        name = f"{item.path.name}::{item.originalname}"  # type: ignore[attr-defined]
        cases.setdefault(name, []).append((report.outcome, dict(item.user_properties).get("tried", 0)))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--reliability")
    if not path:
        return
    lines = [
        "# What a run survives",
        "",
        "Printed by the tests, each of which makes its fault for real:",
        "`python -m pytest tests -m fault --timeout 1800 --reliability docs/reliability.md`",
        "",
        "| case | test | outcome |",
        "|---|---|---|",
    ]
    for case, tests in sorted(session.config.stash[FAULTS].items()):
        for name, outcomes in sorted(tests.items()):
            count = Counter(outcome for outcome, _ in outcomes)
            said = ", ".join(f"{n} {what}" for what, n in sorted(count.items()))
            tried = sum(inputs for _, inputs in outcomes)
            lines.append(f"| {case} | `{name}` | {said}{f', {tried:,} inputs tried' if tried else ''} |")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
