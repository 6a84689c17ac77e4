"""Reads HDF5 files in D4RL's layout: one row a step, an episode ends where `terminals` or `timeouts` is set."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.checks import drop_invalid_episodes
from envs.d4rl_catalog import SUITES, D4RLFile, Suite, by_beginning, find_file, name_of_file
from envs.d4rl_ends import cut_into_episodes
from envs.episodes import Allocate, DataError, Episodes, Source, in_memory
from envs.hdf5 import copy_rows, open_hdf5, read_vector, row_blocks, sha256_of_file

REQUIRED_KEYS = ("observations", "actions", "rewards", "terminals")
ANT_COLUMNS, ANT_CONTACT_COLUMNS = 27, 84  # position and velocity; external contact forces


class Origin(NamedTuple):
    """What a file's name and attributes say of it; None where they say nothing."""

    dataset_id: str
    suite: Suite | None
    known: D4RLFile | None
    env_id: str | None
    max_episode_steps: int | None


def read_d4rl(path: str | Path, allocate: Allocate = in_memory, *, drop_invalid: bool = False) -> Episodes:
    """The whole episodes of an HDF5 file in D4RL's layout, D4RL's own or not; floats are cast to float32.

    The environment is the file's attribute `env_id`, else what a D4RL file name implies. Where terminals and timeouts
    are both set, or an episode ends just at its time limit, it is truncated: that is what D4RL's generator means.
    Whatever was repaired or left out is in source.notes. allocate makes the arrays. drop_invalid leaves out episodes
    with nan or inf in them rather than refuse the file. Raises DataError.
    """
    path = Path(path).expanduser()
    notes: list[str] = []
    with open_hdf5(path) as file:
        _check_layout(file, path)
        origin = _find_origin(file, path, notes)
        cut = cut_into_episodes(file, origin.suite, origin.max_episode_steps, origin.env_id or origin.dataset_id, notes)
        columns = _observation_columns(file, origin, notes)
        kept, num_steps = cut.kept, int(cut.kept.sum())
        observations = allocate("observations", (num_steps, columns), np.float32)
        copy_rows(file, "observations", kept, observations)
        offsets = np.concatenate([[0], np.cumsum(kept)[cut.ends]]).astype(np.int64)
        fields: dict[str, Any] = {
            "observations": observations,
            "actions": _read_actions(file, kept, num_steps, allocate),
            "rewards": read_vector(file, "rewards")[kept],
            "offsets": offsets,
            "terminated": cut.terminated,
            "truncated": cut.truncated,
            "final_observations": _read_final_observations(file, cut.ends, columns),
        }
        if drop_invalid:
            fields = drop_invalid_episodes(fields, notes)
        return Episodes(**fields, source=_describe_source(file, origin, path, notes))


def read_medium_expert(name: str, medium: Path, expert: Path, *, drop_invalid: bool = False) -> Episodes:
    """A medium-expert set where only its halves are had: D4RL's is the one after the other."""
    one, other = (read_d4rl(half, drop_invalid=drop_invalid) for half in (medium, expert))
    if one.observations.shape[1:] != other.observations.shape[1:] or one.actions.shape[1:] != other.actions.shape[1:]:
        raise DataError(f"{name}: {medium} and {expert} differ in the shape of observations or actions")
    finals = [half.final_observations for half in (one, other)]
    notes = (*one.source.notes, f"made of {medium.name} and {expert.name}, one after the other")
    return Episodes(
        observations=np.concatenate([one.observations, other.observations]),
        actions=np.concatenate([one.actions, other.actions]),
        rewards=np.concatenate([one.rewards, other.rewards]),
        offsets=np.concatenate([one.offsets, one.offsets[-1] + other.offsets[1:]]),
        terminated=np.concatenate([one.terminated, other.terminated]),
        truncated=np.concatenate([one.truncated, other.truncated]),
        final_observations=None if any(part is None for part in finals) else np.concatenate(finals),  # type: ignore[arg-type]
        source=replace(
            one.source, dataset_id=name, sha256=f"{one.source.sha256}+{other.source.sha256}", notes=tuple(notes)
        ),
    )


def halves_of(name: str) -> tuple[D4RLFile, D4RLFile] | None:
    """The medium and the expert set that a medium-expert set consists of; None for every other name.

    Not for hopper-medium-expert-v0, which is of expert and replay data (Farama-Foundation/D4RL issue #19).
    """
    match = re.fullmatch(r"(\w+)-medium-expert-(v\d)", name)
    if match is None or name == "hopper-medium-expert-v0":
        return None
    return find_file(f"{match[1]}-medium-{match[2]}"), find_file(f"{match[1]}-expert-{match[2]}")


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
    for key in set(keys) & {"observations", "next_observations"}:
        if file[key].ndim != 2:
            raise DataError(f"{path}: expected {key} of shape [num_steps, width], got {file[key].shape}")


def _find_origin(file: h5py.File, path: Path, notes: list[str]) -> Origin:
    name, said = name_of_file(path), file.attrs.get("env_id")
    known = None if name is None else find_file(name)
    suite = None if known is None else known.suite
    env_id = (
        said if isinstance(said, str) else by_beginning(suite.environments, known.name) if known and suite else None
    )
    if env_id is not None and env_id != said:
        notes.append(f"{env_id}, the physics D4RL recorded in, was taken from the file's name")
        if suite is not None and suite.note:
            notes[-1] = f"{env_id} was taken from the file's name; {suite.note}"
    if known is not None and suite is not None:
        limit = by_beginning(suite.max_episode_steps, known.name)
    else:
        limit = _usual_time_limit(env_id)
    return Origin(name or path.stem, suite, known, env_id, limit)


def _usual_time_limit(env_id: str | None) -> int | None:
    families = [env.split("-")[0] for env in SUITES[0].environments.values()]
    return SUITES[0].max_episode_steps[""] if env_id and env_id.split("-")[0] in families else None


def _observation_columns(file: h5py.File, origin: Origin, notes: list[str]) -> int:
    """How many columns of an observation are kept.

    D4RL's ant recorded 84 contact forces that mujoco-py left at zero; Ant-v4 gives the other 27 columns.
    """
    width = int(file["observations"].shape[1])
    is_ant = origin.env_id is None or origin.env_id.startswith("Ant-")
    if not is_ant or width != ANT_COLUMNS + ANT_CONTACT_COLUMNS:
        return width
    if any(block[:, ANT_COLUMNS:].any() for _, block in row_blocks(file["observations"])):
        raise DataError(
            f"the last {ANT_CONTACT_COLUMNS} of 111 observation columns hold contact forces, which Ant-v4 does not "
            f"give by default (D4RL's are zero). Write a file with the first {ANT_COLUMNS} columns."
        )
    notes.append(f"kept the first {ANT_COLUMNS} of 111 observation columns: the contact forces are zero throughout")
    return ANT_COLUMNS


def _read_actions(
    file: h5py.File, kept: NDArray[np.bool_], num_steps: int, allocate: Allocate
) -> NDArray[np.float32] | NDArray[np.int64]:
    """[num_steps, action_dim] float32, or [num_steps] int64 where the file holds one whole number a step."""
    recorded = file["actions"]
    if recorded.dtype.kind in "iu":
        if recorded.size != len(recorded):
            raise DataError(f"{file.filename}: expected one whole number a step in actions, got shape {recorded.shape}")
        return np.asarray(recorded.astype(np.int64)[()]).reshape(-1)[kept]
    if recorded.ndim != 2:
        raise DataError(f"{file.filename}: expected actions of shape [num_steps, width], got {recorded.shape}")
    actions = allocate("actions", (num_steps, recorded.shape[1]), np.float32)
    copy_rows(file, "actions", kept, actions)
    return actions


def _read_final_observations(file: h5py.File, ends: NDArray[np.int64], columns: int) -> NDArray[np.float32] | None:
    """What followed each episode's last action, [E, columns]; None where the file does not hold it."""
    if "next_observations" not in file:
        return None
    finals = np.empty((len(ends), min(columns, file["next_observations"].shape[1])), np.float32)
    for first, block in row_blocks(file["next_observations"]):
        here = (ends >= first) & (ends < first + len(block))
        finals[here] = block[ends[here] - first, :columns]
    return finals


def _describe_source(file: h5py.File, origin: Origin, path: Path, notes: list[str]) -> Source:
    low, high = file.attrs.get("random_return"), file.attrs.get("expert_return")
    reference = (float(low), float(high)) if low is not None and high is not None and low < high else None
    actions = None
    if origin.suite is not None and origin.suite.bounded and file["actions"].ndim == 2:
        width = file["actions"].shape[1]
        actions = {"low": [-1.0] * width, "high": [1.0] * width}
    return Source(
        dataset_id=origin.dataset_id,
        sha256=sha256_of_file(path),
        env_id=origin.env_id,
        env_kwargs=_read_env_kwargs(file),
        reference=reference,
        reference_source=f"attributes of {path.name}" if reference else None,
        actions=actions,
        why_no_env=origin.suite.why_none if origin.suite is not None else None,
        notes=tuple(notes),
    )


def _read_env_kwargs(file: h5py.File) -> dict[str, Any]:
    said = file.attrs.get("env_kwargs", "{}")
    try:
        kwargs = json.loads(said)
    except (TypeError, ValueError):
        kwargs = None
    if not isinstance(kwargs, dict):
        raise DataError(f"{file.filename}: expected a JSON object in the attribute env_kwargs, got {said!r}")
    return kwargs
