"""Datasets converted once: flat arrays in a cache, memory-mapped when they are opened again.

    CACHE/episodes/KEY/   observations.npy actions.npy rewards.npy offsets.npy ... manifest.json

KEY is a digest of the dataset's bytes, its name and the version of the readers. An entry is written beside its place
and renamed, and its arrays are checked against the hashes in its manifest each time: what a kill or a disk has torn
is made again, never believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import DataError
from envs.episodes import Allocate, Episodes, Source, in_memory
from envs.hdf5 import sha256_of_file

FORMAT_VERSION = 1  # of an entry, and of what the readers make of a file: raise it when either changes
ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated", "truncated", "final_observations")


class CacheError(Exception):
    """The cache cannot take an array. Not an OSError: readers hold those for faults of the file they read."""


def open_stored(name: str, sha256: str, read: Callable[[Allocate], Episodes]) -> Episodes:
    """The episodes of the dataset with this name and hash: from the cache, else from `read`, which fills the cache.

    Where the cache cannot be written the episodes stay in memory, and their notes say why. Raises what `read` raises.
    """
    from filelock import FileLock

    key = hashlib.sha256(f"{FORMAT_VERSION} {sha256} {name}".encode()).hexdigest()[:32]
    entry = cache_folder() / "episodes" / key
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_name(f".{key}.lock")):
            stored = _load(entry)
            if stored is None:
                _make(entry, read)
                stored = _load(entry)
            if stored is None:
                raise OSError("what was written there cannot be read back")
            return stored
    except (OSError, CacheError) as error:
        episodes = read(in_memory)
        note = f"not kept in the cache {cache_folder()} ({error}): it will be read anew each time"
        return replace(episodes, source=replace(episodes.source, notes=(*episodes.source.notes, note)))


def cache_folder() -> Path:
    """$MINRNN_RL_CACHE, else where this system keeps a user's caches."""
    import platformdirs

    return Path(os.environ.get("MINRNN_RL_CACHE") or platformdirs.user_cache_dir("minrnn-rl")).expanduser()


def stored_names() -> list[str]:
    """What the cache holds, by name; torn entries are left out."""
    names = []
    for path in (cache_folder() / "episodes").glob("*/manifest.json"):
        try:
            names.append(str(json.loads(path.read_bytes())["source"]["dataset_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(names)


def _make(entry: Path, read: Callable[[Allocate], Episodes]) -> None:
    with _beside(entry) as partial:

        def allocate(field: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
            if 0 in shape:
                return np.empty(shape, dtype)
            path = partial / f"{field}.npy"
            try:
                made: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
                _reserve(path)
            except OSError as error:
                raise CacheError(str(error)) from error
            return made

        episodes = read(allocate)
        files = {}
        for field in ARRAYS:
            array = getattr(episodes, field)
            if array is None:
                continue
            path = partial / f"{field}.npy"
            if isinstance(array, np.memmap):
                array.flush()
            else:
                np.save(path, array, allow_pickle=False)
            files[field] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        manifest = {
            "format_version": FORMAT_VERSION,
            "source": asdict(episodes.source),
            "num_actions": episodes.num_actions,
            "files": files,
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in partial.iterdir():
            _sync(path)
        shutil.rmtree(entry, ignore_errors=True)
        partial.rename(entry)


@contextmanager
def _beside(entry: Path) -> Iterator[Path]:
    """A new folder that is gone afterwards unless it was renamed; what an earlier kill left there is removed."""
    partial = entry.with_name(f".{entry.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _load(entry: Path) -> Episodes | None:
    """The entry's episodes, memory-mapped; None if it is not there, or not as it was written."""
    try:
        manifest = json.loads((entry / "manifest.json").read_bytes())
        arrays = {field: _load_array(entry / f"{field}.npy", manifest["files"].get(field)) for field in ARRAYS}
        source = manifest["source"]
        for field in ("reference", "notes"):
            source[field] = None if source[field] is None else tuple(source[field])
        return Episodes(**arrays, source=Source(**source), num_actions=manifest["num_actions"])
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _load_array(path: Path, expected: dict[str, Any] | None) -> Any:
    if expected is None:
        if path.stem != "final_observations":
            raise ValueError(f"{path.stem} is missing")
        return None
    if path.stat().st_size != expected["bytes"] or sha256_of_file(path) != expected["sha256"]:
        raise ValueError(f"{path} is not what was written")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _reserve(path: Path) -> None:
    """Claims the file's blocks on the disk: writing through a map to a full one would end the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
