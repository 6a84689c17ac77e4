"""What opening a dataset costs the first and the second time, and what memory one larger than memory takes.

python benchmarks/datasets.py --gigabytes 4
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import arguments, report

from agents import WindowSampler
from agents.normalization import observation_statistics
from envs import load_episodes

OBS_DIM, ACTION_DIM, EPISODE = 17, 6, 1000  # halfcheetah's
WIDE = 111 + 8  # columns of the large set: wider rows, fewer of them


def main() -> None:
    chosen = arguments(__doc__, steps=1_000_000, gigabytes=4.0, batches=200)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINRNN_RL_CACHE"] = f"{folder}/cache"
        rows = [opening(Path(folder), chosen), larger_than_memory(Path(folder), chosen)]
    note = (
        "Anonymous memory is what a process cannot give back to the disk (RssAnon), above what it had before the set "
        "was opened, at its highest; the arrays themselves are mapped from the cache."
    )
    report("datasets", rows, chosen, note=note)


def opening(folder: Path, chosen: Any) -> dict[str, Any]:
    """A gzip-compressed file as D4RL's."""
    path = folder / "million.hdf5"
    write(path, chosen.steps, OBS_DIM, ACTION_DIM, compression="gzip")
    return {"set": f"{chosen.steps:,} steps, {OBS_DIM} + {ACTION_DIM} columns, gzip", **use(path, chosen)}


def larger_than_memory(folder: Path, chosen: Any) -> dict[str, Any]:
    path = folder / "large.hdf5"
    num_steps = int(chosen.gigabytes * 1e9 / (4 * (WIDE + 1))) // EPISODE * EPISODE
    write(path, num_steps, WIDE - 8, 8, compression=None)
    return {"set": f"{num_steps:,} steps, {WIDE - 8} + 8 columns", **use(path, chosen)}


def use(path: Path, chosen: Any) -> dict[str, Any]:
    """Opens the file twice, makes its statistics, and draws batches."""
    with Anonymous() as memory:
        began = time.perf_counter()
        load_episodes(str(path))
        first = time.perf_counter() - began
        began = time.perf_counter()
        episodes = load_episodes(str(path))
        second = time.perf_counter() - began
        began = time.perf_counter()
        observation_statistics(episodes)
        sampler = WindowSampler(episodes, context_length=20)
        ready = time.perf_counter() - began
        began = time.perf_counter()
        for step in range(chosen.batches):
            sampler.sample(64, seed=0, step=step)
        batch = (time.perf_counter() - began) / chosen.batches
    size = sum(array.nbytes for array in (episodes.observations, episodes.actions, episodes.rewards))
    return {
        "GB": size / 1e9,
        "first opening, s": first,
        "second opening, s": second,
        "statistics and returns, s": ready,
        "a batch of 64 x 20, ms": 1e3 * batch,
        "anonymous memory, MB": memory.highest / 1e6,
    }


def write(path: Path, num_steps: int, obs_dim: int, action_dim: int, compression: str | None) -> None:
    """Episodes of EPISODE random steps in D4RL's layout, a part at a time."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["env_id"] = "HalfCheetah-v5"
        widths = {"observations": (obs_dim,), "actions": (action_dim,), "rewards": ()}
        for name, width in widths.items():
            file.create_dataset(
                name, (num_steps, *width), np.float32, chunks=(EPISODE, *width), compression=compression
            )
        for first in range(0, num_steps, 50 * EPISODE):
            rows = slice(first, min(num_steps, first + 50 * EPISODE))
            for name, width in widths.items():
                file[name][rows] = np.tanh(rng.standard_normal((rows.stop - first, *width), np.float32))
        file["terminals"] = np.zeros(num_steps, np.bool_)
        file["timeouts"] = np.arange(num_steps) % EPISODE == EPISODE - 1


class Anonymous:
    """The growth of this process' anonymous memory, watched from a thread."""

    def __enter__(self) -> Anonymous:
        self.highest, self._stop = 0, threading.Event()
        self._before = anonymous_bytes()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.highest = max(self.highest, anonymous_bytes() - self._before)


def anonymous_bytes() -> int:
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


if __name__ == "__main__":
    main()
