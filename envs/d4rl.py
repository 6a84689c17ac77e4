"""Reads HDF5 files in D4RL's layout: one row a step, an episode ends where `terminals` or `timeouts` is set."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.episodes import DataError, Episodes, Source
from envs.hdf5 import open_hdf5, read_flags, read_matrix, read_vector, sha256_of_file

# D4RL recorded with gym's -v2 environments (Farama-Foundation/D4RL issue #116). -v4 is the same physics in today's
# MuJoCo; -v5 is not for Walker2d (friction of the right foot 0.9 -> 1.9), nor for Ant's observations.
RECORDED_IN = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4"}
KINDS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
D4RL_NAMES = tuple(f"{name}-{kind}-{version}" for name in RECORDED_IN for kind in KINDS for version in ("v2", "v1"))
MAX_EPISODE_STEPS = 1000  # of those four environments, in every version
URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_{version}/{file_name}"  # d4rl/infos.py

FILE_STEM = rf"({'|'.join(RECORDED_IN)})_(.+-v[12]|random|medium|expert|mixed|medium_expert)"  # v0's have no version
REQUIRED_KEYS = ("observations", "actions", "rewards", "terminals")
ANT_COLUMNS, ANT_CONTACT_COLUMNS = 27, 84  # position and velocity; external contact forces


def read_d4rl(path: str | Path) -> Episodes:
    """The whole episodes of an HDF5 file in D4RL's layout, D4RL's own or not; floats are cast to float32.

    The environment is the file's attribute `env_id`, else what a D4RL file name implies. Where terminals and timeouts
    are both set the episode is truncated: D4RL sets timeouts at the time limit, whatever else was true there.
    Whatever was repaired or left out is in source.notes. Raises DataError.
    """
    path = Path(path).expanduser()
    notes: list[str] = []
    with open_hdf5(path) as file:
        _check_layout(file, path)
        env_id = _find_env_id(file, path, notes)
        terminals, timeouts = _read_ends(file, env_id, notes)
        ends = _find_ends(terminals | timeouts, path, notes)
        kept = slice(0, int(ends[-1]) + 1)
        observations = read_matrix(file, "observations")[kept]
        finals = read_matrix(file, "next_observations")[ends] if "next_observations" in file else None
        if env_id is None or env_id.startswith("Ant-"):
            observations, finals = _drop_ant_contact_forces(observations, finals, notes)
        return Episodes(
            observations=observations,
            actions=_read_actions(file)[kept],
            rewards=read_vector(file, "rewards")[kept],
            offsets=np.concatenate([[0], ends + 1]).astype(np.int64),
            terminated=terminals[ends],
            truncated=timeouts[ends],
            final_observations=finals,
            source=Source(_name_dataset(path), sha256_of_file(path), env_id, notes=tuple(notes)),
        )


def find_d4rl(name: str) -> Path:
    """Where the file of a D4RL name such as hopper-medium-replay-v2 lies on this machine.

    Looks in $D4RL_DATASET_DIR, else ~/.d4rl/datasets, as D4RL itself does. Raises DataError saying where it looked.
    """
    if name not in D4RL_NAMES:
        near = difflib.get_close_matches(name, D4RL_NAMES, n=3)
        raise DataError(
            f"{name!r} is no D4RL name known here; expected one such as hopper-medium-replay-v2."
            + (f" Did you mean {' or '.join(near)}?" if near else "")
        )
    stem, version = name.rsplit("-", 1)
    file_name = f"{stem.replace('-', '_')}-{version}.hdf5"
    folder = Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()
    if not (folder / file_name).is_file():
        raise DataError(
            f"{name} is not on this machine: looked for {folder / file_name}. Download it there from "
            f"{URL.format(version=version, file_name=file_name)}, or set D4RL_DATASET_DIR to the folder that holds it."
        )
    return folder / file_name


def _check_layout(file: h5py.File, path: Path) -> None:
    """Raises DataError for a foreign or uneven layout."""
    missing = [key for key in REQUIRED_KEYS if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        hint = " It looks like Minari's: give the dataset's id instead." if "episode_0" in file else ""
        raise DataError(
            f"{path} is not in D4RL's layout: it lacks {', '.join(missing)}; it has "
            f"{', '.join(list(file)[:20]) or 'nothing'}. "
            f"Expected {', '.join(REQUIRED_KEYS)} and timeouts, one row a step.{hint}"
        )
    keys = [*REQUIRED_KEYS, *(key for key in ("timeouts", "next_observations") if key in file)]
    for key in keys:
        if not isinstance(file[key], h5py.Dataset) or file[key].dtype.kind not in "fiub":
            raise DataError(f"{path}: expected numbers in {key!r}, got {file[key]!r}")
    rows = {key: len(file[key]) if file[key].ndim else 0 for key in keys}
    if len(set(rows.values())) > 1 or not all(rows.values()):
        raise DataError(f"{path}: expected as many rows in every column and at least one, got {rows}")


def _find_env_id(file: h5py.File, path: Path, notes: list[str]) -> str | None:
    env_id = file.attrs.get("env_id")
    if isinstance(env_id, str):
        return env_id
    match = re.fullmatch(FILE_STEM, path.stem)
    if match is None:
        return None
    notes.append(f"{RECORDED_IN[match[1]]}, the physics D4RL recorded in, was taken from the file's name")
    return RECORDED_IN[match[1]]


def _name_dataset(path: Path) -> str:
    """D4RL's name for one of its files, else the file's own without its ending."""
    name = path.stem.replace("_", "-")
    return name if name in D4RL_NAMES else path.stem


def _read_actions(file: h5py.File) -> NDArray[np.float32] | NDArray[np.int64]:
    """[num_steps, action_dim] float32, or [num_steps] int64 where the file holds one whole number a step."""
    actions = file["actions"]
    if actions.dtype.kind not in "iu":
        return read_matrix(file, "actions")
    if actions.size != len(actions):
        raise DataError(f"{file.filename}: expected one whole number a step in actions, got shape {actions.shape}")
    return np.asarray(actions.astype(np.int64)[()]).reshape(-1)


def _read_ends(file: h5py.File, env_id: str | None, notes: list[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """terminals and timeouts as [num_steps] bool, never both set."""
    terminals = read_flags(file, "terminals")
    if "timeouts" in file:
        timeouts = read_flags(file, "timeouts")
    elif env_id is not None and env_id.split("-")[0].lower() in RECORDED_IN:
        timeouts = mark_time_limits(terminals, MAX_EPISODE_STEPS)
        notes.append(f"the file has no timeouts: episodes were cut at {env_id}'s limit of {MAX_EPISODE_STEPS} steps")
    else:
        timeouts = np.zeros_like(terminals)
        notes.append("the file has no timeouts: only terminals end an episode")
    if both := int((terminals & timeouts).sum()):
        notes.append(f"{both} steps with both flags set are taken as timeouts")
    return terminals & ~timeouts, timeouts


def mark_time_limits(terminals: NDArray[np.bool_], max_episode_steps: int) -> NDArray[np.bool_]:
    """True where an episode had lasted max_episode_steps without a terminal: the timeouts that early files lack."""
    timeouts = np.zeros_like(terminals)
    start = 0
    for end in [*(np.flatnonzero(terminals) + 1), len(terminals)]:
        timeouts[start + max_episode_steps - 1 : end : max_episode_steps] = True
        start = end
    return timeouts & ~terminals


def _find_ends(flags: NDArray[np.bool_], path: Path, notes: list[str]) -> NDArray[np.int64]:
    """The last row of each episode; rows after the last flag are an episode that was cut, as in most D4RL files."""
    ends = np.flatnonzero(flags)
    if not ends.size:
        raise DataError(
            f"{path}: none of its {len(flags)} steps ends an episode; set terminals or timeouts where one does."
        )
    if rest := len(flags) - 1 - int(ends[-1]):
        notes.append(f"dropped the last {rest} steps: an episode cut without a flag")
    return ends


def _drop_ant_contact_forces(
    observations: NDArray[np.float32], finals: NDArray[np.float32] | None, notes: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """D4RL's ant recorded 84 contact forces that mujoco-py left at zero; Ant-v4 gives the other 27 columns."""
    if observations.shape[1] != ANT_COLUMNS + ANT_CONTACT_COLUMNS:
        return observations, finals
    if observations[:, ANT_COLUMNS:].any():
        raise DataError(
            f"the last {ANT_CONTACT_COLUMNS} of 111 observation columns hold contact forces, which Ant-v4 does not "
            f"give by default (D4RL's are zero). Write a file with the first {ANT_COLUMNS} columns."
        )
    notes.append(f"kept the first {ANT_COLUMNS} of 111 observation columns: the contact forces are zero throughout")
    finals = None if finals is None else np.ascontiguousarray(finals[:, :ANT_COLUMNS])
    return np.ascontiguousarray(observations[:, :ANT_COLUMNS]), finals
