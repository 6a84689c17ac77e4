"""Tasks: an environment, what a score means there, and the dataset an agent learns from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.environments import TaskError, check_environment, make_environment, usual_environments
from envs.episodes import Episodes, Source

if TYPE_CHECKING:
    import gymnasium

D4RL_INFOS = "D4RL (Farama-Foundation/D4RL, d4rl/infos.py)"

# Environment family -> mean return of a random and of an expert policy, and who measured them.
REFERENCE_SCORES: dict[str, tuple[float, float, str]] = {
    "halfcheetah": (-280.178953, 12135.0, D4RL_INFOS),
    "hopper": (-20.272305, 3234.3, D4RL_INFOS),
    "walker2d": (1.629008, 4592.3, D4RL_INFOS),
    "ant": (-325.6, 3879.7, D4RL_INFOS),
}


class Reference(NamedTuple):
    """Returns that count as 0 and as 100, and where they come from."""

    min: float
    max: float
    source: str


@dataclass(frozen=True)
class Task:
    """What an agent is asked to do and judged by; all of it is plain JSON, so a run directory can hold it.

    env_declared: the user named the environment, the data did not. reference: {min, max, source}; None where nothing
    says what counts as 0 and 100. target_return: environment units, declared
    before training. actions: {low, high} with None where unbounded, or {num_actions}. dataset: id, sha256, notes and
    the number, steps and returns of its episodes.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    env_declared: bool
    reference: dict[str, Any] | None
    target_return: float
    max_episode_steps: int
    actions: dict[str, Any]
    dataset: dict[str, Any]

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Task:
        """The task that `describe` described. Raises TaskError."""
        try:
            return cls(**description)
        except TypeError as error:
            raise TaskError(f"expected the description of a task, as in a run's task.json; {error}") from error

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def make_environment(self) -> gymnasium.Env[Any, Any]:
        return make_environment(self.env_id, self.env_kwargs)

    def in_environment(self, env_id: str) -> Task:
        """The same task in another environment, with its time limit and reference scores. Raises TaskError."""
        if env_id == self.env_id:
            return self
        here, there = self._interface(), replace(self, env_id=env_id, env_kwargs={})._interface()
        if there[:2] != here[:2]:
            raise TaskError(
                f"the agent plays {self.env_id} with observations {here[0]} and actions {here[1]}; "
                f"{env_id} has {there[0]} and {there[1]}: choose one that is alike"
            )
        reference = reference_scores(env_id, Source("", ""))
        return replace(
            self,
            env_id=env_id,
            env_kwargs={},
            env_declared=True,
            reference=None if reference is None else reference._asdict(),
            max_episode_steps=there[2] or self.max_episode_steps,
        )

    def _interface(self) -> tuple[Any, dict[str, Any], int | None]:
        """What an agent meets: the shape of observations, the actions, the time limit."""
        with closing(self.make_environment()) as env:
            return env.observation_space.shape, describe_actions(env), env.spec.max_episode_steps if env.spec else None


def describe_task(episodes: Episodes, *, env_id: str | None = None, target_return: float | None = None) -> Task:
    """The task these episodes pose. Raises TaskError unless an agent that learns from them can play it.

    env_id: None for the environment they were recorded in. target_return: None for their best return.
    """
    choice = environment_for(episodes, env_id)
    with closing(make_environment(choice.env_id, choice.env_kwargs)) as env:
        check_environment(env, episodes)
        actions = describe_actions(env)
        limit = env.spec.max_episode_steps if env.spec else None
    reference = reference_scores(choice.env_id, episodes.source)
    return Task(
        env_id=choice.env_id,
        env_kwargs=choice.env_kwargs,
        env_declared=choice.declared,
        reference=None if reference is None else reference._asdict(),
        target_return=float(episodes.returns.max()) if target_return is None else target_return,
        max_episode_steps=limit or int(episodes.lengths.max()),
        actions=actions,
        dataset=describe_dataset(episodes, [choice.note] if choice.note else []),
    )


def describe_dataset(episodes: Episodes, notes: list[str]) -> dict[str, Any]:
    """Where the episodes come from and how good they are, as plain JSON; returns are in environment units."""
    returns = episodes.returns
    return {
        "id": episodes.source.dataset_id,
        "sha256": episodes.source.sha256,
        "recorded_in": episodes.source.env_id,
        "notes": [*episodes.source.notes, *notes],
        "num_episodes": len(episodes),
        "num_steps": episodes.num_steps,
        "mean_return": float(returns.mean()),
        "percentile_90_return": float(np.percentile(returns, 90)),
        "best_return": float(returns.max()),
    }


def describe_actions(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """{num_actions}, or {low, high} as lists with None where a side is unbounded."""
    from gymnasium.spaces import Discrete

    space: Any = env.action_space
    if isinstance(space, Discrete):
        return {"num_actions": int(space.n)}
    low, high = ([float(b) if np.isfinite(b) else None for b in bound] for bound in (space.low, space.high))
    return {"low": low, "high": high}


def reference_scores(env_id: str, source: Source) -> Reference | None:
    """What counts as 0 and 100 in env_id: the dataset's own scores if they are of env_id, else D4RL's, else None."""
    if source.reference is not None and source.env_id in (None, env_id):
        return Reference(*source.reference, source.reference_source or f"metadata of {source.dataset_id}")
    family = re.sub(r"-v\d+$", "", env_id).lower()
    return Reference(*REFERENCE_SCORES[family]) if family in REFERENCE_SCORES else None


def normalized_score(returns: ArrayLike, reference: Reference) -> NDArray[np.float64]:
    """100 * (return - min) / (max - min), as D4RL does."""
    return 100 * (np.asarray(returns, dtype=np.float64) - reference.min) / (reference.max - reference.min)


class EnvironmentChoice(NamedTuple):
    """The environment to score in; declared: the user named it, the data did not. note: what a report must add."""

    env_id: str
    env_kwargs: dict[str, Any]
    declared: bool
    note: str | None


def environment_for(episodes: Episodes, env_id: str | None) -> EnvironmentChoice:
    """The environment to score in: env_id if given, else the one the data was recorded in. Raises TaskError."""
    source = episodes.source
    if env_id is None and source.env_id is None:
        raise TaskError(
            f"{source.dataset_id} does not say which environment it was recorded in. Pass env_id=..., such as "
            f"{usual_environments(episodes) or 'CartPole-v1'}."
        )
    if env_id is None and ":" in str(source.env_id):  # gymnasium would import the module before the colon
        raise TaskError(
            f"{source.dataset_id} names the environment {source.env_id!r}, which would import a module of its choice. "
            f"If you trust it, pass env_id={source.env_id}."
        )
    if env_id is None or env_id == source.env_id:
        return EnvironmentChoice(str(source.env_id), dict(source.env_kwargs), declared=env_id is not None, note=None)
    recorded = f"was recorded in {source.env_id}" if source.env_id else "does not say where it was recorded"
    return EnvironmentChoice(
        env_id, {}, declared=True, note=f"scored in {env_id} as told; {source.dataset_id} {recorded}"
    )
