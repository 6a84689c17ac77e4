"""Tasks: an environment, what counts there, and the dataset an agent learns from, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.checks import ROWS_AT_ONCE
from envs.environments import TaskError, check_environment, environment_for, make_environment
from envs.episodes import Episodes, Source
from envs.patterns import mismatch
from envs.references import reference_scores

if TYPE_CHECKING:
    import gymnasium

HISTOGRAM_BINS = 60
TARGET_OVER_BEST = 1.25  # a target return so many times the best recorded one is worth a word

# What `Task.describe` gives, as envs.patterns writes it.
DESCRIPTION: dict[str, Any] = {
    "env_id": (str, None),
    "env_kwargs": {},
    "env_declared": bool,
    "reference": ({"min": float, "max": float, "source": str, "of": str}, None),
    "target_return": float,
    "max_episode_steps": int,
    "actions": ({"low": [(float, None)], "high": [(float, None)]}, {"num_actions": int}),
    "dataset": {
        "id": str,
        "sha256": str,
        "recorded_in": (str, None),
        "obs_dim": int,
        "notes": [str],
        "num_episodes": int,
        "num_steps": int,
        "mean_return": float,
        "percentile_90_return": float,
        "best_return": float,
        "return_histogram": {"edges": [float], "counts": [int]},
    },
}


@dataclass(frozen=True)
class Task:
    """What an agent is asked to do and judged by; all of it is plain JSON, so a run directory can hold it.

    env_id: None for data without an environment that could be made here: an agent can learn from it, not be scored.
    env_declared: the user named the environment, the data did not. reference: {min, max, source, of}; None where
    nothing says what counts as 0 and 100. target_return: environment units, declared before training. actions: {low,
    high} with None where unbounded, or {num_actions}. dataset: id, sha256, notes and the number, steps and returns of
    its episodes.
    """

    env_id: str | None
    env_kwargs: dict[str, Any]
    env_declared: bool
    reference: dict[str, Any] | None
    target_return: float
    max_episode_steps: int
    actions: dict[str, Any]
    dataset: dict[str, Any]
    observation_columns: list[int] | None = None

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Task:
        """The task that `describe` described. Raises TaskError."""
        problem = mismatch(description, DESCRIPTION)
        columns = None if problem else description.get("observation_columns")
        problem = problem or mismatch(columns, ([int], None), "observation_columns")
        if columns is not None and not problem and (not columns or min(columns) < 0):
            problem = f"expected observation_columns to be column numbers; got {columns!r:.60}"
        if problem:
            raise TaskError(f"expected the description of a task, as in a run's task.json; {problem}")
        return cls(**{key: description[key] for key in DESCRIPTION}, observation_columns=columns)

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def doubt_about_target(self) -> str | None:
        """What is to be said of a target return far above all that was recorded; None where it is within reach."""
        best = self.dataset["best_return"]
        if not 0 < TARGET_OVER_BEST * best < self.target_return:
            return None
        return (
            f"the target return, {self.target_return:.0f}, is {self.target_return / best:.1f} times the best return "
            f"recorded: nothing in the data shows what to do for it. target_return={best:.0f} asks for the best"
        )

    def make_environment(self) -> gymnasium.Env[Any, Any]:
        if self.env_id is None:
            raise TaskError(f"there is no environment for {self.dataset['id']}; pass env_id=... to name one")
        return make_environment(self.env_id, self.env_kwargs, self.observation_columns)

    def in_environment(self, env_id: str) -> Task:
        """The same task in another environment, with its time limit and reference scores. Raises TaskError."""
        if env_id == self.env_id:
            return self
        there = _interface(replace(self, env_id=env_id, env_kwargs={}))
        here = ((self.dataset["obs_dim"],), self.actions) if self.env_id is None else _interface(self)[:2]
        if there[:2] != here:
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


def _interface(task: Task) -> tuple[Any, dict[str, Any], int | None]:
    """What an agent meets: the shape of observations, the actions, the time limit."""
    with closing(task.make_environment()) as env:
        return env.observation_space.shape, describe_actions(env), env.spec.max_episode_steps if env.spec else None


def describe_task(
    episodes: Episodes,
    *,
    env_id: str | None = None,
    target_return: float | None = None,
    play: bool = True,
    observation_columns: list[int] | None = None,
) -> Task:
    """The task these episodes pose. Raises TaskError unless an agent that learns from them can play it.

    env_id: None for the environment they were recorded in. target_return: None for their best return. play=False: the
    agent will not be scored, so that an environment nobody has here does not matter. observation_columns: those that
    the episodes were cut down to, and that the agent is shown in its environment; None for all.
    """
    target = float(episodes.returns.max()) if target_return is None else target_return
    try:
        choice = environment_for(episodes, env_id)
        env = make_environment(choice.env_id, choice.env_kwargs, observation_columns)
    except TaskError as error:
        if play or env_id is not None:
            raise
        return _task_without_environment(episodes, target, str(error))
    with closing(env):
        check_environment(env, episodes)
        actions = describe_actions(env)
        limit = env.spec.max_episode_steps if env.spec else None
    reference = reference_scores(choice.env_id, episodes.source)
    notes = [note for note in (choice.note, _note_outside(episodes, actions)) if note]
    return Task(
        env_id=choice.env_id,
        env_kwargs=choice.env_kwargs,
        env_declared=choice.declared,
        reference=None if reference is None else reference._asdict(),
        target_return=target,
        max_episode_steps=limit or int(episodes.lengths.max()),
        actions=actions,
        dataset=describe_dataset(episodes, notes),
        observation_columns=observation_columns,
    )


def _task_without_environment(episodes: Episodes, target_return: float, why: str) -> Task:
    if episodes.is_discrete:
        actions: dict[str, Any] = {"num_actions": episodes.num_actions or int(episodes.actions.max()) + 1}
    else:
        unbounded = {"low": [None] * episodes.action_dim, "high": [None] * episodes.action_dim}
        actions = episodes.source.actions or unbounded
    notes = [note for note in (f"not played: {why}", _note_outside(episodes, actions)) if note]
    return Task(
        env_id=None,
        env_kwargs={},
        env_declared=False,
        reference=None,
        target_return=target_return,
        max_episode_steps=int(episodes.lengths.max()),
        actions=actions,
        dataset=describe_dataset(episodes, notes),
    )


def _note_outside(episodes: Episodes, actions: dict[str, Any]) -> str | None:
    """What to say of recorded actions outside the bounds; an agent learns the bound in their place."""
    if episodes.is_discrete:
        return None
    low = np.array([-np.inf if bound is None else bound for bound in actions["low"]], np.float32)
    high = np.array([np.inf if bound is None else bound for bound in actions["high"]], np.float32)
    num_outside, farthest = 0, 0.0
    for first in range(0, episodes.num_steps, ROWS_AT_ONCE):
        block = episodes.actions[first : first + ROWS_AT_ONCE]
        beyond = np.maximum(np.maximum(low - block, block - high).max(axis=1), 0.0)
        num_outside += int((beyond > 0).sum())
        farthest = max(farthest, float(beyond.max()))
    if not num_outside:
        return None
    return (
        f"{num_outside} of {episodes.num_steps} actions lie outside the bounds, by up to {farthest:.3g}: "
        "they are learnt as the bound"
    )


def describe_dataset(episodes: Episodes, notes: list[str]) -> dict[str, Any]:
    """Where the episodes come from and how good they are, as plain JSON; returns are in environment units."""
    returns = episodes.returns
    counts, edges = np.histogram(returns, bins=HISTOGRAM_BINS)
    return {
        "id": episodes.source.dataset_id,
        "sha256": episodes.source.sha256,
        "recorded_in": episodes.source.env_id,
        "obs_dim": episodes.obs_dim,
        "notes": [*episodes.source.notes, *notes],
        "num_episodes": len(episodes),
        "num_steps": episodes.num_steps,
        "mean_return": float(returns.mean()),
        "percentile_90_return": float(np.percentile(returns, 90)),
        "best_return": float(returns.max()),
        "return_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def describe_actions(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """{num_actions}, or {low, high} as lists with None where a side is unbounded."""
    from gymnasium.spaces import Discrete

    space: Any = env.action_space
    if isinstance(space, Discrete):
        return {"num_actions": int(space.n)}
    low, high = ([float(b) if np.isfinite(b) else None for b in bound] for bound in (space.low, space.high))
    return {"low": low, "high": high}
