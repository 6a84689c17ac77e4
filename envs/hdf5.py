"""HDF5 files opened with care: whole, leading to no other file of this machine; and their columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.checks import ROWS_AT_ONCE, DataError

# All of which h5py raises for bytes that are not as they were written.
DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, SystemError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises DataError before any data is read if it is not a whole HDF5 file that contains all its data.
    """
    check_is_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            refuse_links_to_other_files(file)
            yield file
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(
            f"{path} is an HDF5 file but cannot be read ({error}). It looks cut short or damaged: "
            "download or copy it again."
        ) from error


def check_is_hdf5(path: Path) -> None:
    """Raises DataError unless there is a file at path that begins like HDF5."""
    if not path.exists():
        raise DataError(f"there is no file at {path}")
    if not path.is_file():
        raise DataError(f"expected an HDF5 file at {path}, which is a directory or no ordinary file")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes): download or copy it again")
    if not h5py.is_hdf5(path):
        with path.open("rb") as file:
            beginning = file.read(16)
        raise DataError(f"{path} is not an HDF5 file (it begins with {beginning!r}). Was something else downloaded?")


def refuse_links_to_other_files(file: h5py.File) -> None:
    """Raises DataError if any part of the file would be read from another one.

    External links, external storage and virtual datasets let a file from the internet show any file this user can read.
    """
    # h5py stops walking at the first answer that is not None; an exception inside the walk would be lost
    found = file.visititems_links(_describe_link) or file.visititems(_describe_storage)
    if found:
        raise DataError(f"{file.filename}: {found}. Refused: all data must be in this one file; copy it in.")


def _describe_link(name: str, link: Any) -> str | None:
    """What leads outside, or None. Every link is seen, so a soft link's detour through an external one is too."""
    return f"{name!r} is an external link to {link.filename!r}" if isinstance(link, h5py.ExternalLink) else None


def _describe_storage(name: str, item: h5py.Group | h5py.Dataset) -> str | None:
    if isinstance(item, h5py.Dataset) and item.is_virtual:
        return f"{name!r} is a virtual dataset, stored in other files"
    if isinstance(item, h5py.Dataset) and item.external:
        return f"{name!r} is stored outside, in {item.external[0][0]!r}"
    return None


def sha256_of_file(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def row_blocks(dataset: h5py.Dataset) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, rows as float32 [rows, width]) of a matrix, block after block: it may be larger than memory."""
    as_float32 = dataset.astype(np.float32)
    for first in range(0, len(dataset), ROWS_AT_ONCE):
        yield first, np.asarray(as_float32[first : first + ROWS_AT_ONCE])


def copy_rows(file: h5py.File, key: str, kept: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
    """Fills out [rows kept, columns] with the kept rows' first columns, whatever the precision in the file."""
    filled = 0
    for first, block in row_blocks(file[key]):
        mask = kept[first : first + len(block)]
        rows = block if mask.all() else block[mask]
        out[filled : filled + len(rows)] = rows[:, : out.shape[1]]
        filled += len(rows)


def read_vector(file: h5py.File, key: str) -> NDArray[np.float32]:
    """[num_steps] float32; a second axis of one is taken away."""
    if file[key].size != len(file[key]):
        raise DataError(f"{file.filename}: expected one number a step in {key}, got shape {file[key].shape}")
    return np.asarray(file[key].astype(np.float32)[()]).reshape(-1)


def read_flags(file: h5py.File, key: str) -> NDArray[np.bool_]:
    """[num_steps] bool from bools, whole numbers or floats."""
    values = read_vector(file, key)
    bad = (values != 0) & (values != 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{file.filename}: expected 0 or 1 in {key}, got {values[row]} in row {row}")
    return values.astype(np.bool_)
