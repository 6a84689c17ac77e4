"""Small recordings to read: HDF5 in D4RL's exact layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

# Tests run side by side: processes that each use every core are many times slower than processes with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

WriteD4RL = Callable[..., Path]


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
