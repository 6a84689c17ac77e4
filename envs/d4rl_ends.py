"""Where the episodes of a file in D4RL's layout end: `terminals`, `timeouts`, and what is wrong with them."""

from __future__ import annotations

from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.d4rl_catalog import Suite
from envs.episodes import DataError
from envs.hdf5 import read_flags

CUT_SHORT_WORTH_SAYING = 0.01  # share of the episodes


class Cut(NamedTuple):
    """Which rows are kept, and the episodes they form."""

    kept: NDArray[np.bool_]  # [rows of the file]
    ends: NDArray[np.int64]  # [E] the last row of each episode, in the file
    terminated: NDArray[np.bool_]  # [E]
    truncated: NDArray[np.bool_]  # [E]


def cut_into_episodes(file: h5py.File, suite: Suite | None, limit: int | None, whose: str, notes: list[str]) -> Cut:
    """The episodes that the file's flags end, and the rows they are. Raises DataError; notes gets what was repaired.

    limit: the steps an episode may last, None where that is not known; whose: the name of what has that limit.
    """
    terminals = read_flags(file, "terminals")
    if suite is not None and suite.name == "antmaze" and "timeouts" in file:
        return _cut_at_goals(terminals, read_flags(file, "timeouts"), file.filename, notes)
    terminals, timeouts = _read_ends(file, terminals, limit, whose, notes)
    ends = _find_ends(terminals | timeouts, file.filename, notes)
    if limit is not None:
        _turn_limits_into_timeouts(terminals, timeouts, ends, limit, notes)
    kept = np.arange(len(terminals)) <= ends[-1]
    return Cut(kept, ends, terminals[ends], timeouts[ends])


def _read_ends(
    file: h5py.File, terminals: NDArray[np.bool_], limit: int | None, whose: str, notes: list[str]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """terminals and timeouts as [num_steps] bool, never both set."""
    if "timeouts" in file:
        timeouts = read_flags(file, "timeouts")
    elif limit is not None:
        timeouts = mark_time_limits(terminals, limit)
        notes.append(f"the file has no timeouts: episodes were cut at {whose}'s limit of {limit} steps")
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


def _find_ends(flags: NDArray[np.bool_], path: str, notes: list[str]) -> NDArray[np.int64]:
    """The last row of each episode; rows after the last flag are an episode that was cut, as in most D4RL files."""
    ends = np.flatnonzero(flags)
    if not ends.size:
        raise DataError(
            f"{path}: none of its {len(flags)} steps ends an episode; set terminals or timeouts where one does."
        )
    if rest := len(flags) - 1 - int(ends[-1]):
        notes.append(f"dropped the last {rest} steps: an episode cut without a flag")
    return ends


def _turn_limits_into_timeouts(
    terminals: NDArray[np.bool_], timeouts: NDArray[np.bool_], ends: NDArray[np.int64], limit: int, notes: list[str]
) -> None:
    """Corrects both flags in place, and says how many episodes the recording cut before their time."""
    lengths = np.diff(ends, prepend=-1)
    at_limit = ends[(lengths == limit) & terminals[ends]]
    if at_limit.size:
        terminals[at_limit], timeouts[at_limit] = False, True
        notes.append(f"{at_limit.size} terminals at the time limit of {limit} steps are taken as timeouts")
    short = int((timeouts[ends] & (lengths < limit)).sum())
    if short > CUT_SHORT_WORTH_SAYING * len(ends):  # replay buffers: D4RL issue #162
        notes.append(
            f"{short} of {len(ends)} episodes were cut before the time limit of {limit} steps without having failed: "
            "their returns are lower than those of whole episodes"
        )


def _cut_at_goals(terminals: NDArray[np.bool_], timeouts: NDArray[np.bool_], path: str, notes: list[str]) -> Cut:
    """AntMaze: an episode ends when the goal is first reached; D4RL flags every step near it (D4RL issue #199)."""
    last = _find_ends(timeouts, path, notes)
    first = np.concatenate([[0], last[:-1] + 1])
    ends = last.copy()
    goals = np.flatnonzero(terminals)
    place = np.searchsorted(goals, first)
    found = place < len(goals)
    reached = np.zeros(len(last), np.bool_)
    reached[found] = goals[place[found]] <= last[found]
    ends[reached] = goals[place[reached]]
    change = np.zeros(len(terminals) + 1, np.int8)
    change[first] += 1
    change[ends + 1] -= 1
    kept = np.cumsum(change[:-1]).astype(np.bool_)
    if left_out := int(last[-1]) + 1 - int(kept.sum()):
        notes.append(f"left out {left_out} steps recorded after the goal had been reached: a return is 0 or 1")
    return Cut(kept, ends, reached, ~reached)
