"""What makes recorded arrays usable; every complaint names the field, and the episode and step where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from envs.episodes import Episode, Episodes

ROWS_AT_ONCE = 1 << 16  # of data that may be larger than memory


class DataError(ValueError):
    """A dataset that cannot be used. The message is meant for the user and needs no traceback."""

    for_user = True


def check_episode_shapes(episodes: Sequence[Episode], dataset_id: str) -> None:
    """Raises DataError unless these episodes can share one flat store."""
    if not episodes:
        raise DataError(f"{dataset_id}: expected at least one episode, got none.")
    first = episodes[0]
    for index, episode in enumerate(episodes):
        rows = [len(episode.observations), len(episode.actions), len(episode.rewards)]
        if len(set(rows)) > 1:
            raise DataError(
                f"{dataset_id}: episode {index} has {rows[0]} observations, {rows[1]} actions and {rows[2]} rewards; "
                "expected one of each a step (what follows the last action is final_observation)."
            )
        for name in ("observations", "actions"):
            width, expected = (np.shape(getattr(one, name))[1:] for one in (episode, first))
            if width != expected:
                raise DataError(
                    f"{dataset_id}: {name} of episode {index} have shape {width}; expected {expected}, as in episode 0."
                )


def drop_invalid_episodes(fields: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The fields of Episodes without the episodes that hold nan or inf; notes are told how many went."""
    offsets, lengths = fields["offsets"], np.diff(fields["offsets"])
    bad = np.zeros(len(lengths), np.bool_)
    for name in ("observations", "actions", "rewards"):
        for first in range(0, len(fields[name]), ROWS_AT_ONCE):
            block = fields[name][first : first + ROWS_AT_ONCE]
            rows = first + np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))
            bad[np.searchsorted(offsets, rows, side="right") - 1] = True
    if (finals := fields["final_observations"]) is not None:
        finite, absent = np.isfinite(finals).all(axis=1), np.isnan(finals).all(axis=1)
        bad |= ~finite & ~absent
    if not bad.any():
        return fields
    notes.append(f"left out {int(bad.sum())} of {len(bad)} episodes with nan or inf in them, as told")
    kept = np.repeat(~bad, lengths)
    by_row = {name: fields[name][kept] for name in ("observations", "actions", "rewards")}
    by_episode = {name: fields[name][~bad] for name in ("terminated", "truncated")}
    return {
        **by_row,
        **by_episode,
        "offsets": np.concatenate([[0], np.cumsum(lengths[~bad])]).astype(np.int64),
        "final_observations": None if finals is None else finals[~bad],
    }


def check_flat_arrays(episodes: Episodes, dataset_id: str) -> None:
    """Raises DataError unless the arrays of a flat store fit together and hold numbers only."""
    try:
        _check_dtypes(episodes)
        _check_offsets(episodes.offsets, len(episodes.rewards))
        _check_lengths(episodes)
        _check_ends(episodes)
        _check_discrete_actions(episodes)
        for name in ("observations", "actions", "rewards"):
            _check_finite(name, getattr(episodes, name), episodes.offsets)
        _check_final_observations(episodes)
    except DataError as error:
        raise DataError(f"{dataset_id}: {error}") from None


def _check_dtypes(episodes: Episodes) -> None:
    discrete = episodes.actions.ndim == 1
    expected: list[tuple[str, type, int]] = [
        ("observations", np.float32, 2),
        ("actions", np.int64 if discrete else np.float32, 1 if discrete else 2),
        ("rewards", np.float32, 1),
        ("offsets", np.int64, 1),
        ("terminated", np.bool_, 1),
        ("truncated", np.bool_, 1),
    ]
    if episodes.final_observations is not None:
        expected.append(("final_observations", np.float32, 2))
    for name, dtype, ndim in expected:
        array = getattr(episodes, name)
        if array.dtype != dtype or array.ndim != ndim:
            raise DataError(
                f"expected {name} as {ndim}-dimensional {dtype.__name__}, got {array.dtype} of shape {array.shape}."
            )


def _check_offsets(offsets: NDArray[np.int64], num_steps: int) -> None:
    if len(offsets) < 2 or num_steps == 0:
        raise DataError("expected at least one episode with a step in it, got none.")
    if offsets[0] != 0 or offsets[-1] != num_steps:
        raise DataError(f"expected offsets from 0 to {num_steps} (the steps), got {offsets[0]} to {offsets[-1]}.")
    if (np.diff(offsets) < 0).any():
        index = int(np.argmax(np.diff(offsets) < 0))
        raise DataError(f"offsets must never fall; episode {index} runs from {offsets[index]} to {offsets[index + 1]}.")


def _check_lengths(episodes: Episodes) -> None:
    num_steps, num_episodes = len(episodes.rewards), len(episodes.offsets) - 1
    for name in ("observations", "actions"):
        if len(getattr(episodes, name)) != num_steps:
            raise DataError(f"expected {num_steps} {name}, one a reward; got {len(getattr(episodes, name))}.")
    for name in ("terminated", "truncated"):
        if len(getattr(episodes, name)) != num_episodes:
            raise DataError(f"expected {num_episodes} {name}, one an episode; got {len(getattr(episodes, name))}.")
    finals, shape = episodes.final_observations, (num_episodes, episodes.observations.shape[1])
    if finals is not None and finals.shape != shape:
        raise DataError(f"expected final_observations of shape {shape}, got {finals.shape}.")


def _check_ends(episodes: Episodes) -> None:
    both = np.flatnonzero(episodes.terminated & episodes.truncated)
    if both.size:
        raise DataError(
            f"episode {both[0]} is both terminated and truncated ({both.size} such). Keep terminated if the task ended "
            "there, truncated if only the recording did."
        )


def _check_discrete_actions(episodes: Episodes) -> None:
    if episodes.actions.ndim == 2:
        return
    bound = np.inf if episodes.num_actions is None else episodes.num_actions
    bad = (episodes.actions < 0) | (episodes.actions >= bound)
    if bad.any():
        row = int(np.argmax(bad))
        wanted = "at least 0" if episodes.num_actions is None else f"0 to {episodes.num_actions - 1}"
        raise DataError(f"expected actions {wanted}, got {episodes.actions[row]} at {_place(row, episodes.offsets)}.")


def _check_finite(name: str, array: NDArray[Any], offsets: NDArray[np.int64]) -> None:
    first_row, first_value, num_bad = -1, None, 0
    for begin in range(0, len(array), ROWS_AT_ONCE):  # the array may be larger than memory
        block = array[begin : begin + ROWS_AT_ONCE]
        finite = np.isfinite(block)
        if finite.all():
            continue
        bad_rows = np.flatnonzero(~finite.reshape(len(block), -1).all(axis=1))
        num_bad += bad_rows.size
        if first_row < 0:
            row = int(bad_rows[0])
            first_row, first_value = begin + row, block[row][~finite[row]].flat[0]
    if num_bad:
        raise DataError(
            f"{name} has {first_value} at {_place(first_row, offsets)}; {num_bad} such rows in all. It is never "
            "repaired silently: correct the data, or leave those episodes out with drop_invalid_episodes=true."
        )


def _check_final_observations(episodes: Episodes) -> None:
    if episodes.final_observations is None:
        return
    finite = np.isfinite(episodes.final_observations)
    absent = np.isnan(episodes.final_observations).all(axis=1)
    bad = np.flatnonzero(~absent & ~finite.all(axis=1))
    if bad.size:
        raise DataError(
            f"final_observations has nan or inf for episode {bad[0]} ({bad.size} such); expected numbers, "
            "or all nan where none was recorded."
        )


def _place(row: int, offsets: NDArray[np.int64]) -> str:
    """Names a row of the flat arrays as the user counts it."""
    index = int(np.searchsorted(offsets, row, side="right")) - 1
    return f"episode {index}, step {row - offsets[index]} (row {row})"
