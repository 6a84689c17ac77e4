"""Reads Minari datasets, from this machine or downloaded by Minari."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.environments import is_numeric
from envs.episodes import DataError, Episode, Episodes, Source
from envs.hdf5 import open_hdf5, sha256_of_file
from envs.store import open_stored

if TYPE_CHECKING:
    from gymnasium.spaces import Space
    from minari import EpisodeData, MinariDataset


def open_minari(dataset_id: str, *, drop_invalid: bool = False) -> Episodes:
    """The episodes of a Minari dataset, converted once. Raises DataError."""
    dataset = _open(dataset_id)
    digest = sha256_of_folder(Path(dataset.spec.data_path))
    name = f"{dataset_id} without invalid episodes" if drop_invalid else dataset_id
    return open_stored(name, digest, lambda _: read_minari(dataset_id, drop_invalid=drop_invalid))


def read_minari(dataset_id: str, *, drop_invalid: bool = False) -> Episodes:
    """The episodes of a Minari dataset; floats are cast to float32, observations flattened as gymnasium flattens them.

    Where an episode's last step is both terminated and truncated it is terminated: gymnasium's time limit sets
    truncated whatever else is true. drop_invalid leaves out episodes with nan or inf in them rather than refuse the
    dataset. Raises DataError.
    """
    dataset = _open(dataset_id)
    notes: list[str] = []
    num_actions = check_action_space(dataset.action_space, dataset_id)
    check_observation_space(dataset.observation_space, dataset_id)
    # one pass, an episode at a time: Minari has no faster way, about 3 ms each
    episodes = [_read_episode(data, dataset) for data in dataset.iterate_episodes() if len(data)]
    if empty := len(dataset) - len(episodes):
        notes.append(f"left out {empty} episodes without a step")
    if drop_invalid:
        valid = [episode for episode in episodes if _is_finite(episode)]
        if len(valid) < len(episodes):
            left_out = len(episodes) - len(valid)
            notes.append(f"left out {left_out} of {len(episodes)} episodes with nan or inf in them, as told")
        episodes = valid
    episodes = _settle_ends(episodes, notes)
    return Episodes.from_episodes(episodes, _describe_source(dataset, notes), num_actions)


def _open(dataset_id: str) -> MinariDataset:
    try:
        import minari
        from minari.dataset.minari_dataset import DATASET_ID_RE
        from minari.storage.datasets_root_dir import get_dataset_path
    except ImportError:
        raise DataError(f'{dataset_id} needs Minari, which is not installed: pip install "minari[hdf5,hf]"') from None
    match = DATASET_ID_RE.fullmatch(dataset_id)
    if match is None or match["version"] is None:
        raise DataError(f"expected a Minari id such as mujoco/hopper/medium-v0, got {dataset_id!r}")
    folder = get_dataset_path(dataset_id) / "data"
    if not folder.is_dir():
        _download(dataset_id)
    _check_files(folder, dataset_id)
    try:
        return minari.load_dataset(dataset_id)
    except (ValueError, ImportError) as error:  # another Minari's data; pyarrow missing
        raise DataError(f"Minari cannot load {dataset_id}: {error}") from None


def _download(dataset_id: str) -> None:
    import minari

    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # whatever network, hub client and Minari raise: the user needs to know what to do
        near = difflib.get_close_matches(dataset_id, minari.list_local_datasets(), n=3)
        raise DataError(
            f"{dataset_id} is not on this machine and could not be downloaded ({type(error).__name__}: {error})."
            + (f" On this machine there is {', '.join(near)}." if near else "")
            + " With a network: minari download ID; without: set MINARI_DATASETS_PATH to the folder that holds it."
        ) from None


def _check_files(folder: Path, dataset_id: str) -> None:
    """Raises DataError for files that Minari would follow out of the dataset, or into code."""
    for path in folder.rglob("*.hdf5"):
        with open_hdf5(path):
            pass
    metadata = json.loads((folder / "metadata.json").read_text()) if (folder / "metadata.json").is_file() else {}
    missing = [key for key in ("observation_space", "action_space") if key not in metadata]
    if missing:  # Minari would make the environment to learn them, from an entry point that the file names
        raise DataError(f"{dataset_id}: {folder / 'metadata.json'} lacks {' and '.join(missing)}; download it again")


def _read_episode(data: EpisodeData, dataset: MinariDataset) -> Episode:
    observations = flatten_over_time(dataset.observation_space, data.observations)
    num_steps, actions = len(data), np.asarray(data.actions)
    if len(observations) not in (num_steps, num_steps + 1) or len(actions) != num_steps:
        raise DataError(
            f"{dataset.spec.dataset_id}: episode {data.id} has {num_steps} rewards, {len(actions)} actions and "
            f"{len(observations)} observations; expected as many actions, and one observation more."
        )
    return Episode(
        observations[:num_steps],
        flatten_over_time(dataset.action_space, actions) if actions.ndim > 1 else actions,
        data.rewards,
        terminated=bool(data.terminations[-1]),
        truncated=bool(data.truncations[-1]),
        final_observation=observations[num_steps] if len(observations) > num_steps else None,
    )


def _is_finite(episode: Episode) -> bool:
    arrays = (episode.observations, episode.actions, episode.rewards, episode.final_observation)
    return all(array is None or bool(np.isfinite(array).all()) for array in arrays)


def _settle_ends(episodes: list[Episode], notes: list[str]) -> list[Episode]:
    """The same episodes, each either terminated or truncated."""
    both = sum(episode.terminated and episode.truncated for episode in episodes)
    neither = sum(not episode.terminated and not episode.truncated for episode in episodes)
    if both:
        notes.append(f"{both} episodes end both terminated and truncated: taken as terminated")
    if neither:
        notes.append(f"{neither} episodes end without a flag: taken as truncated")
    return [replace(episode, truncated=not episode.terminated) for episode in episodes]


def check_action_space(space: Space[Any], dataset_id: str) -> int | None:
    """How many discrete actions there are; None if actions are continuous."""
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete) and space.start == 0:
        return int(space.n)
    if isinstance(space, Box) and space.dtype is not None and space.dtype.kind == "f" and space.shape:
        return None
    raise DataError(f"{dataset_id}: expected a Box of floats or a Discrete action space from 0, got {space}")


def check_observation_space(space: Space[Any], dataset_id: str) -> None:
    """Raises DataError unless the space is made of vectors. Text beside numbers is left out, as `environments` does."""
    from gymnasium.spaces import Box, Dict, Tuple

    if isinstance(space, Dict | Tuple):
        parts = _numeric_parts(space)
        if not parts:
            raise DataError(f"{dataset_id}: expected observations with numbers in them, got {space}")
        for _, part in parts:
            check_observation_space(part, dataset_id)
    elif isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1 and min(space.shape[:2]) >= 32:
        raise DataError(f"{dataset_id}: expected observations that are vectors, got images of shape {space.shape}")
    elif not is_numeric(space):
        raise DataError(f"{dataset_id}: expected observations of numbers, got {space}")


def _numeric_parts(space: Space[Any]) -> list[tuple[Any, Space[Any]]]:
    """(key, part) of a Dict or Tuple, in its order."""
    from gymnasium.spaces import Dict

    parts: Any = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)  # type: ignore[attr-defined]
    return [(key, part) for key, part in parts if is_numeric(part)]


def flatten_over_time(space: Space[Any], values: Any) -> NDArray[Any]:
    """[time, width]: every row as gymnasium.spaces.flatten gives it, all rows at once."""
    from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Tuple

    if isinstance(space, Dict | Tuple):
        parts = [flatten_over_time(part, values[key]) for key, part in _numeric_parts(space)]
        return np.concatenate(parts, axis=1)
    if isinstance(space, Discrete):
        return _one_hot(np.asarray(values).reshape(-1) - int(space.start), int(space.n))
    if isinstance(space, MultiDiscrete):
        columns = (np.asarray(values) - space.start).reshape(len(values), -1).T
        return np.concatenate([_one_hot(c, int(n)) for c, n in zip(columns, space.nvec.flat, strict=True)], axis=1)
    return np.asarray(values).reshape(len(values), -1)


def _one_hot(indices: NDArray[Any], num_values: int) -> NDArray[np.float32]:
    encoded: NDArray[np.float32] = np.eye(num_values, dtype=np.float32)[indices]
    return encoded


def _describe_source(dataset: MinariDataset, notes: list[str]) -> Source:
    metadata = dataset.storage.metadata
    recorded, asked = (json.loads(metadata.get(key) or "null") for key in ("env_spec", "eval_env_spec"))
    spec = asked or recorded
    if asked and recorded and asked != recorded:
        notes.append(f"recorded in {recorded['id']}, scored in the dataset's own evaluation environment {asked['id']}")
    if spec and spec.get("additional_wrappers"):
        names = ", ".join(wrapper["name"] for wrapper in spec["additional_wrappers"])
        notes.append(f"the dataset's environment has wrappers, which are not applied: {names}")
    reference = _find_reference(metadata)
    return Source(
        dataset_id=dataset.spec.dataset_id,
        sha256=sha256_of_folder(Path(dataset.spec.data_path)),
        env_id=spec["id"] if spec else None,
        env_kwargs=_find_env_kwargs(spec) if spec else {},
        reference=reference,
        reference_source=f"metadata of {dataset.spec.dataset_id}" if reference else None,
        actions=_describe_bounds(dataset.action_space),
        notes=tuple(notes),
    )


def _describe_bounds(space: Space[Any]) -> dict[str, Any]:
    from gymnasium.spaces import Discrete

    if isinstance(space, Discrete):
        return {"num_actions": int(space.n)}
    bounds = (np.ravel(bound).tolist() for bound in (space.low, space.high))  # type: ignore[attr-defined]
    return dict(
        zip(("low", "high"), ([b if math.isfinite(b) else None for b in bound] for bound in bounds), strict=True)
    )


def _find_env_kwargs(spec: dict[str, Any]) -> dict[str, Any]:
    """What gymnasium.make needs beside the id; the time limit too, where it is not the environment's usual one."""
    from gymnasium import registry

    kwargs = {key: value for key, value in (spec.get("kwargs") or {}).items() if key != "render_mode"}
    limit, registered = spec.get("max_episode_steps"), registry.get(spec["id"])
    if limit is not None and (registered is None or registered.max_episode_steps != limit):
        kwargs["max_episode_steps"] = limit
    return kwargs


def _find_reference(metadata: dict[str, Any]) -> tuple[float, float] | None:
    """(random, expert) return, if the dataset was made with usable ones."""
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high) or low >= high:
        return None
    return float(low), float(high)


def sha256_of_folder(folder: Path) -> str:
    """One digest of all files, that of the lines `sha256sum` prints for them, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_of_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
