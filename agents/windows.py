"""What is learnt from: windows of episodes, cut out of the flat store with a few gathers."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.episodes import Episodes


class Batch(NamedTuple):
    """B windows of K steps, padded on the right; what stands on padded steps has no meaning."""

    observations: Tensor  # [B, K, obs_dim]
    actions: Tensor  # [B, K, action_dim]; discrete: int64 [B, K]
    previous_actions: Tensor  # as actions; zeros (discrete: -1) at an episode's first step
    returns_to_go: Tensor  # [B, K], undiscounted, environment units
    timesteps: Tensor  # int64 [B, K], steps since the episode began
    valid_mask: Tensor  # bool [B, K], True on real steps
    rewards: Tensor  # [B, K], environment units
    terminated: Tensor  # bool [B, K], True where the environment ended the episode, not a time limit
    starts: Tensor | None = None  # bool [B, K], True where an episode begins; None where no window holds two
    imitated: Tensor | None = None  # bool [B, K], True on steps of episodes worth imitating; None where all are

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in self))  # type: ignore[arg-type]

    def pin_memory(self) -> "Batch":
        """In memory from which a GPU copies while the CPU goes on."""
        return Batch(*(None if tensor is None else tensor.pin_memory() for tensor in self))  # type: ignore[arg-type]


class WindowSampler:
    """Windows drawn so that every recorded step is learnt from about equally often, or early ones more often.

    A window may reach over either end of its episode. Over the right end it is padded; over the left end it is moved
    to begin with the episode, so that context_length windows of each episode begin as acting does: with no past.
    Drawing the first step uniformly instead shows a fresh start once an episode.

    top_fraction and top_return: which episodes are worth imitating, see `best_episodes`; `kept` holds their indices.
    earliest_of: each of their windows is the earliest of so many drawn from its episode, since all that acts has to get
    through an episode's beginning, and an early error costs the rest of it. others: beside each window of those come so
    many of all episodes, from which critics learn; `imitated` tells them apart. packed: where an episode ends the
    window goes on with the next one instead of padding, and says so in `starts`.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        context_length: int,
        top_fraction: float = 1.0,
        top_return: float | None = None,
        earliest_of: int = 1,
        others: float = 0.0,
        packed: bool = False,
    ) -> None:
        self.episodes = episodes
        self.kept = best_episodes(episodes.returns, top_fraction, top_return)
        self.context_length, self.earliest_of, self.others, self.packed = context_length, earliest_of, others, packed
        self._returns_to_go = returns_to_go(episodes)
        self._used = np.arange(len(episodes)) if others else self.kept
        self._begins, self._ends = episodes.offsets[self._used], episodes.offsets[self._used + 1]
        self._steps_before = np.cumsum([0, *episodes.lengths[self._used]])  # of the used episodes end to end
        self._is_kept = np.isin(self._used, self.kept)
        num_windows = self._ends - self._begins + context_length - 1
        self._kept_windows_before = np.cumsum([0, *(num_windows * self._is_kept)])
        self._windows_before = np.cumsum([0, *num_windows])

    def sample(self, batch_size: int, *, seed: int, step: int) -> Batch:
        """The batch of this step of the run with this seed: the same whenever and wherever it is asked for."""
        return self.windows(self.starts(batch_size, seed=seed, step=step))

    def starts(self, batch_size: int, *, seed: int, step: int) -> np.ndarray:
        """The rows of the flat store at which the windows of that batch begin, [batch_size + others * batch_size]."""
        rng = np.random.default_rng([seed, step])
        kept = self._drawn(rng, self._kept_windows_before, batch_size, self.earliest_of)
        num_others = round(self.others * batch_size)
        return np.concatenate([kept, self._drawn(rng, self._windows_before, num_others)]) if num_others else kept

    def _drawn(
        self, rng: np.random.Generator, windows_before: np.ndarray, num_windows: int, earliest_of: int = 1
    ) -> np.ndarray:
        """The rows at which so many windows begin, uniform over those counted before each episode and after the last.

        Each is the earliest of so many drawn from its episode.
        """
        drawn = rng.integers(windows_before[-1], size=num_windows)
        place = np.searchsorted(windows_before, drawn, side="right") - 1
        for _ in range(earliest_of - 1):
            drawn = np.minimum(drawn, rng.integers(windows_before[place], windows_before[place + 1]))
        starts: np.ndarray = np.maximum(self._ends[place] - (windows_before[place + 1] - drawn), self._begins[place])
        return starts

    def num_real_steps(self, starts: np.ndarray) -> int:
        """How many steps of the windows that begin at these rows are not padding."""
        if self.packed:
            return len(starts) * self.context_length
        return int(np.minimum(self._ends[self._place(starts)] - starts, self.context_length).sum())

    def windows(self, starts: np.ndarray) -> Batch:
        """The windows that begin at these rows of the flat store; unless packed, each ends with its episode."""
        place, ahead = self._place(starts)[:, None], np.arange(self.context_length)
        if self.packed:
            steps = self._steps_before[place] + starts[:, None] - self._begins[place] + ahead
            steps %= self._steps_before[-1]
            place = np.searchsorted(self._steps_before, steps, side="right") - 1
            rows = self._begins[place] + steps - self._steps_before[place]
            valid_mask = np.ones_like(rows, dtype=np.bool_)
        else:
            rows = starts[:, None] + ahead
            valid_mask = rows < self._ends[place]
            rows = np.minimum(rows, self._ends[place] - 1)
        timesteps = rows - self._begins[place]
        begins = timesteps == 0
        actions = self.episodes.actions
        previous_actions = actions[np.maximum(rows - 1, 0)]
        previous_actions[begins] = -1 if self.episodes.is_discrete else 0.0
        arrays = (self.episodes.observations[rows], actions[rows], previous_actions, self._returns_to_go[rows])
        terminated = self.episodes.terminated[self._used[place]] & (rows == self._ends[place] - 1)
        rewards = self.episodes.rewards[rows]
        tensors = (torch.from_numpy(array) for array in (*arrays, timesteps, valid_mask, rewards, terminated))
        imitated = torch.from_numpy(self._is_kept[place]).expand(rows.shape).contiguous() if self.others else None
        return Batch(*tensors)._replace(starts=torch.from_numpy(begins) if self.packed else None, imitated=imitated)

    def _place(self, rows: np.ndarray) -> np.ndarray:
        """Which of the used episodes these rows of the flat store are in."""
        return np.searchsorted(self._begins, rows, side="right") - 1


def best_episodes(returns: np.ndarray, top_fraction: float, top_return: float | None) -> np.ndarray:
    """The indices, in order, of the episodes that are worth imitating, by their returns [E].

    The best top_fraction of them, at least one; and all that came near the best, at least the share top_return of the
    way from the mean return to the highest (None: no others). Where one policy was recorded few are far above its mean;
    where a good and a bad one were, all of the good one's are.
    """
    kept = np.zeros(len(returns), np.bool_)
    kept[np.argsort(-returns, kind="stable")[: max(1, round(top_fraction * len(returns)))]] = True
    if top_return is not None:
        best = returns.max()
        kept |= best - returns <= (1 - top_return) * max(0.0, best - returns.mean())
    return np.flatnonzero(kept)


def returns_to_go(episodes: Episodes) -> np.ndarray:
    """The sum of the rewards from each step to the end of its episode, float32 [num_steps], summed in float64."""
    until_end = np.empty(episodes.num_steps, np.float32)
    for begin, end in pairwise(episodes.offsets.tolist()):  # episode by episode: the data may be larger than memory
        until_end[begin:end] = np.cumsum(episodes.rewards[begin:end][::-1], dtype=np.float64)[::-1]
    return until_end
