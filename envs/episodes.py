"""Recorded experience: one Episode, and the flat store that holds many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from envs.checks import DataError, check_episode_shapes, check_flat_arrays

__all__ = ["Allocate", "DataError", "Episode", "Episodes", "Source", "in_memory"]


class Allocate(Protocol):
    """Makes the array for a field of Episodes: in memory, or in a file that is larger."""

    def __call__(self, field: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]: ...


def in_memory(field: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    return np.empty(shape, dtype)


@dataclass(frozen=True, eq=False)
class Episode:
    """What was recorded between a reset and an end.

    observations [T, obs_dim] float32, actions [T, action_dim] float32 (discrete: [T] int64), rewards [T] float32.
    Row t is one step: the action taken on observation t, and the reward it earned.
    final_observation [obs_dim] is what followed the last action; None where it was not recorded.
    """

    observations: NDArray[np.float32]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    terminated: bool
    truncated: bool
    final_observation: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True)
class Source:
    """Where episodes come from, so that a score can say so.

    sha256 is that of the file's bytes. env_id and env_kwargs make the environment the data was recorded in; None where
    nothing says. reference is (random, expert) return, only where the dataset itself carries it, and reference_source
    names it. notes tell what a reader found and did.
    """

    dataset_id: str
    sha256: str
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    reference: tuple[float, float] | None = None
    reference_source: str | None = None
    actions: dict[str, Any] | None = None
    why_no_env: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Episodes:
    """Many episodes end to end in flat arrays; episode i is rows offsets[i] to offsets[i + 1].

    observations [N, obs_dim] float32, actions [N, action_dim] float32 (discrete: [N] int64), rewards [N] float32,
    offsets [E + 1] int64, terminated and truncated [E] bool. final_observations [E, obs_dim] float32 holds rows of NaN
    where none was recorded. num_actions: how many discrete actions there are, if the reader knows.
    The arrays may be read-only or memory-mapped: nothing writes into them. DataError if they do not fit together.
    """

    observations: NDArray[np.float32]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    offsets: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final_observations: NDArray[np.float32] | None
    source: Source
    num_actions: int | None = None

    def __post_init__(self) -> None:
        self.check()

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode], source: Source, num_actions: int | None = None) -> Episodes:
        """The flat store of these episodes; float64 is cast to float32."""
        check_episode_shapes(episodes, source.dataset_id)
        discrete = np.issubdtype(np.asarray(episodes[0].actions).dtype, np.integer)
        return cls(
            observations=_join([episode.observations for episode in episodes], np.float32),
            actions=_join([episode.actions for episode in episodes], np.int64 if discrete else np.float32),
            rewards=_join([episode.rewards for episode in episodes], np.float32),
            offsets=np.cumsum([0, *map(len, episodes)], dtype=np.int64),
            terminated=np.array([episode.terminated for episode in episodes], dtype=np.bool_),
            truncated=np.array([episode.truncated for episode in episodes], dtype=np.bool_),
            final_observations=_stack_final_observations(episodes),
            source=source,
            num_actions=num_actions,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Episode:
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        index %= len(self)
        rows = slice(self.offsets[index], self.offsets[index + 1])
        final = None if self.final_observations is None else self.final_observations[index]
        return Episode(
            self.observations[rows],
            self.actions[rows],
            self.rewards[rows],
            terminated=bool(self.terminated[index]),
            truncated=bool(self.truncated[index]),
            final_observation=None if final is None or np.isnan(final).all() else final,
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    @property
    def num_steps(self) -> int:
        return len(self.rewards)

    @property
    def obs_dim(self) -> int:
        return int(self.observations.shape[1])

    @property
    def is_discrete(self) -> bool:
        return self.actions.ndim == 1

    @property
    def action_dim(self) -> int:
        """Columns of a continuous action. Discrete ones have none: see num_actions."""
        if self.is_discrete:
            raise AttributeError("discrete actions have no action_dim; see num_actions")
        return int(self.actions.shape[1])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode, [E]."""
        return np.diff(self.offsets)

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted sum of each episode's rewards, [E], summed in float64."""
        total = np.zeros(len(self))
        for index, (begin, end) in enumerate(pairwise(self.offsets.tolist())):
            total[index] = self.rewards[begin:end].sum(dtype=np.float64)
        return total

    def select(self, indices: ArrayLike) -> Episodes:
        """A new store of these episodes, in the given order; indices as numpy takes them (a bool mask too)."""
        if np.size(indices) == 0:
            raise DataError(f"{self.source.dataset_id}: expected at least one episode to select, got none.")
        chosen = np.arange(len(self))[np.asarray(indices)]
        rows = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen])
        return Episodes(
            observations=self.observations[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64),
            terminated=self.terminated[chosen],
            truncated=self.truncated[chosen],
            final_observations=None if self.final_observations is None else self.final_observations[chosen],
            source=self.source,
            num_actions=self.num_actions,
        )

    def select_columns(self, columns: Sequence[int]) -> Episodes:
        """The same episodes with these columns of their observations alone, in memory. Raises DataError."""
        if not columns or not all(0 <= column < self.obs_dim for column in columns):
            name, last = self.source.dataset_id, self.obs_dim - 1
            raise DataError(f"{name}: expected observation_columns between 0 and {last}; got {columns}")
        finals = None if self.final_observations is None else self.final_observations[:, columns]
        return replace(self, observations=self.observations[:, columns], final_observations=finals)

    def check(self) -> None:
        """Raises DataError naming the field, and the episode and step where there is one, that does not fit."""
        check_flat_arrays(self, self.source.dataset_id)


def _join(parts: Sequence[ArrayLike], dtype: DTypeLike) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # what overflows float32 becomes inf, and `check` says where
        return np.concatenate([np.asarray(part).astype(dtype) for part in parts])


def _stack_final_observations(episodes: Sequence[Episode]) -> NDArray[np.float32] | None:
    finals = [episode.final_observation for episode in episodes]
    if all(final is None for final in finals):
        return None
    absent = np.full(np.shape(episodes[0].observations)[1], np.nan, np.float32)
    return _join([[absent if final is None else final] for final in finals], np.float32)
