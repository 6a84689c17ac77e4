"""Datasets by name: embedded, by path, by D4RL's name or by Minari's id."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from envs.d4rl import D4RL_NAMES, find_d4rl, read_d4rl
from envs.episodes import DataError, Episodes

EMBEDDED = Path(__file__).parent / "data"


def load_episodes(dataset: str) -> Episodes:
    """The episodes of the first of these that dataset is.

    An embedded set (hopper_demo); a file in D4RL's layout; a D4RL name (hopper-medium-v2, d4rl:hopper-medium-v2); a
    Minari id (mujoco/hopper/medium-v0, minari:mujoco/hopper/medium-v0). Raises DataError.
    """
    path = Path(dataset).expanduser()
    if dataset in embedded_names():
        return read_d4rl(EMBEDDED / f"{dataset}.hdf5")
    if path.is_file():
        return read_d4rl(path)
    if dataset.startswith("d4rl:") or dataset in D4RL_NAMES:
        return read_d4rl(find_d4rl(dataset.removeprefix("d4rl:")))
    if dataset.startswith("minari:") or re.fullmatch(r"[-\w]+(/[-\w]+)+-v\d+", dataset):
        from envs.minari import read_minari  # its errors tell what Minari knows; nobody else pays for its import

        return read_minari(dataset.removeprefix("minari:"))
    near = difflib.get_close_matches(dataset, [*embedded_names(), *D4RL_NAMES, *_files_beside(path)], n=3)
    raise DataError(
        f"dataset must be an embedded set ({', '.join(embedded_names())}), an HDF5 file in D4RL's layout, a D4RL name "
        f"(hopper-medium-v2) or a Minari id (mujoco/hopper/medium-v0); got {dataset!r}, which is none of these."
        + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
    )


def embedded_names() -> list[str]:
    """The datasets that come with this package."""
    return sorted(path.stem for path in EMBEDDED.glob("*.hdf5"))


def _files_beside(path: Path) -> list[str]:
    return [str(other) for ending in ("*.hdf5", "*.h5") for other in path.parent.glob(ending)]
