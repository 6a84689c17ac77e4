"""Datasets by name: embedded, by path, by D4RL's name or by Minari's id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from envs.d4rl import halves_of, read_d4rl, read_medium_expert
from envs.d4rl_catalog import D4RLFile, d4rl_files, d4rl_folder, find_file
from envs.download import fetch
from envs.episodes import DataError, Episodes
from envs.hdf5 import check_is_hdf5, sha256_of_file
from envs.several import join_datasets
from envs.store import open_stored

EMBEDDED = Path(__file__).parent / "data"


def load_episodes(dataset: str | Sequence[str] | None, *, drop_invalid: bool = False) -> Episodes:
    """The episodes of the first of these that dataset is.

    An embedded set (hopper_demo); a file in D4RL's layout; a D4RL name (hopper-medium-v2, d4rl:hopper-medium-v2),
    downloaded if need be; a Minari id (mujoco/hopper/medium-v0, minari:mujoco/hopper/medium-v0). What is not embedded
    is converted once and opened from the cache from then on. drop_invalid leaves out episodes with nan or inf in them
    rather than refuse the dataset. Several datasets of one environment are joined. Raises DataError.
    """
    if not dataset:
        raise DataError(
            "no dataset was given: dataset=PATH, a D4RL name (hopper-medium-v2) or a Minari id "
            "(mujoco/hopper/medium-v0)"
        )
    if not isinstance(dataset, str):
        parts = [load_episodes(one, drop_invalid=drop_invalid) for one in dataset]
        return parts[0] if len(parts) == 1 else join_datasets(parts)
    path = Path(dataset).expanduser()
    if dataset in embedded_names():
        return read_d4rl(EMBEDDED / f"{dataset}.hdf5")
    if path.is_file():
        return _open_file(path, drop_invalid)
    if dataset.startswith("d4rl:") or dataset in d4rl_files():
        return _open_d4rl(find_file(dataset.removeprefix("d4rl:")), drop_invalid)
    if dataset.startswith("minari:") or re.fullmatch(r"[-\w]+(/[-\w]+)+-v\d+", dataset):
        from envs.minari import open_minari  # its errors tell what Minari knows; nobody else pays for its import

        return open_minari(dataset.removeprefix("minari:"), drop_invalid=drop_invalid)
    if path.suffix in (".hdf5", ".h5") and path.name != dataset:
        raise DataError(f"there is no file at {path}" + _hint(dataset, _files_beside(path)))
    raise DataError(
        f"dataset must be an embedded set ({', '.join(embedded_names())}), an HDF5 file in D4RL's layout, a D4RL name "
        f"(hopper-medium-v2) or a Minari id (mujoco/hopper/medium-v0); got {dataset!r}, which is none of these."
        + _hint(dataset, [*embedded_names(), *d4rl_files(), *_files_beside(path)])
    )


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _open_file(path: Path, drop_invalid: bool) -> Episodes:
    check_is_hdf5(path)
    name = f"{path.name} without invalid episodes" if drop_invalid else path.name
    return open_stored(
        name, sha256_of_file(path), lambda allocate: read_d4rl(path, allocate, drop_invalid=drop_invalid)
    )


def _open_d4rl(file: D4RLFile, drop_invalid: bool) -> Episodes:
    """D4RL's own file, from its folder or its host; medium-expert also from its two halves, if those are here."""
    folder = d4rl_folder()
    halves = halves_of(file.name)
    if halves and not (folder / file.file_name).is_file():
        medium, expert = (folder / half.file_name for half in halves)
        if medium.is_file() and expert.is_file():
            for half in halves:
                _check_published(folder / half.file_name, half)
            return read_medium_expert(file.name, medium, expert, drop_invalid=drop_invalid)
    path = fetch(file, folder)
    _check_published(path, file)
    return _open_file(path, drop_invalid)


def _check_published(path: Path, file: D4RLFile) -> None:
    """Raises DataError unless the file is the one D4RL published, as far as that is known."""
    num_bytes = path.stat().st_size
    if file.num_bytes is not None and num_bytes != file.num_bytes:
        problem = f"has {num_bytes:,} bytes where {file.num_bytes:,} were published"
    elif file.sha256 is not None and sha256_of_file(path) != file.sha256:
        problem = "does not have the published sha256"
    else:
        return
    raise DataError(
        f"{path} {problem}: it is not {file.name}, or was cut short. Delete it to download it again, or give its path "
        "as the dataset to use it as it is."
    )


def embedded_names() -> list[str]:
    """The datasets that come with this package."""
    return sorted(path.stem for path in EMBEDDED.glob("*.hdf5"))


def _files_beside(path: Path) -> list[str]:
    return [str(other) for ending in ("*.hdf5", "*.h5") for other in path.parent.glob(ending)]
