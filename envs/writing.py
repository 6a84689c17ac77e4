"""Writes episodes as D4RL's and as Minari's files, so that they can be read by anyone."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from envs.checks import DataError
from envs.environments import make_environment
from envs.episodes import Episodes


def write_d4rl(episodes: Episodes, path: Path) -> None:
    """An HDF5 file in D4RL's layout, written beside its place and renamed.

    Attributes tell what the layout has no place for: env_id, env_kwargs and the returns that count as 0 and 100.
    next_observations repeats the observation of an episode's last step where what followed it was not recorded.
    """
    ends = episodes.offsets[1:] - 1
    following = np.concatenate([episodes.observations[1:], episodes.observations[-1:]])
    following[ends] = episodes.observations[ends]
    if episodes.final_observations is not None:
        known = ~np.isnan(episodes.final_observations).all(axis=1)
        following[ends[known]] = episodes.final_observations[known]
    flags = {name: np.zeros(episodes.num_steps, np.bool_) for name in ("terminals", "timeouts")}
    flags["terminals"][ends], flags["timeouts"][ends] = episodes.terminated, ~episodes.terminated
    columns = {
        "observations": episodes.observations,
        "actions": episodes.actions,
        "rewards": episodes.rewards,
        "next_observations": following,
        **flags,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with h5py.File(partial, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, compression="gzip", shuffle=True)
        file.attrs.update(_attributes(episodes))
    os.replace(partial, path)


def _attributes(episodes: Episodes) -> dict[str, Any]:
    source = episodes.source
    said: dict[str, Any] = {"notes": "\n".join(source.notes)}
    if source.env_id is not None:
        said |= {"env_id": source.env_id, "env_kwargs": json.dumps(source.env_kwargs)}
    if source.reference is not None:
        said |= {"random_return": source.reference[0], "expert_return": source.reference[1]}
    return said


def write_minari(episodes: Episodes, dataset_id: str) -> Path:
    """A local Minari dataset of this id; gives its folder. Raises DataError.

    Observations are vectors, as they are learnt from: those of a Dict space are not taken apart again.
    """
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    from minari.storage.datasets_root_dir import get_dataset_path

    if not re.fullmatch(r"[-\w]{2,}(/[-\w]+)+-v\d+", dataset_id):
        raise DataError(f"expected a Minari id such as own/hopper/medium-v0, got {dataset_id!r}")
    folder: Path = get_dataset_path(dataset_id)
    if (folder / "data" / "metadata.json").is_file():
        raise DataError(f"there is a Minari dataset {dataset_id} already, in {folder}: delete it or choose another id")
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier attempt left; Minari would take it for the dataset
    source, spec = episodes.source, None
    actions: Any = _action_space(episodes)
    if source.env_id is not None:
        env = make_environment(source.env_id, source.env_kwargs)
        spec, actions = env.spec, env.action_space
        env.close()
    reference = dict(zip(("ref_min_score", "ref_max_score"), source.reference or (None, None), strict=True))
    try:
        with warnings.catch_warnings(action="ignore"):  # Minari asks for an author, an address and so on
            minari.create_dataset_from_buffers(
                dataset_id,
                [_buffer(EpisodeBuffer, episodes, index) for index in range(len(episodes))],
                env=spec,
                observation_space=Box(-np.inf, np.inf, (episodes.obs_dim,), np.float32),
                action_space=actions,
                description="\n".join(source.notes) or None,
                **reference,
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _buffer(kind: Any, episodes: Episodes, index: int) -> Any:
    episode = episodes[index]
    final = episode.observations[-1] if episode.final_observation is None else episode.final_observation
    ends = np.arange(len(episode)) == len(episode) - 1
    return kind(
        observations=np.concatenate([episode.observations, final[None]]),
        actions=episode.actions,
        rewards=episode.rewards.astype(np.float64).tolist(),
        terminations=(ends & episode.terminated).tolist(),
        truncations=(ends & (not episode.terminated)).tolist(),
    )


def _action_space(episodes: Episodes) -> Any:
    from gymnasium.spaces import Box, Discrete

    if episodes.is_discrete:
        return Discrete(episodes.num_actions or int(episodes.actions.max()) + 1)
    said = episodes.source.actions or {side: [None] * episodes.action_dim for side in ("low", "high")}
    low, high = (
        np.array([limit if bound is None else bound for bound in said[side]], np.float32)
        for side, limit in (("low", -np.inf), ("high", np.inf))
    )
    return Box(low, high)
