"""Records what a policy does in an environment, as episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.episodes import Episode, Episodes, Source
from envs.evaluate import Policy


class RandomPolicy:
    """Actions drawn uniformly from the action space, as D4RL's random sets were made."""

    def __init__(self, space: gymnasium.Space[Any], seed: int) -> None:
        self._space = space
        self._space.seed(seed)
        self._num_envs = 1

    def reset(self, num_envs: int, target_return: float) -> None:
        self._num_envs = num_envs

    def act(self, observations: NDArray[Any], rewards: NDArray[Any]) -> NDArray[Any]:
        return np.stack([self._space.sample() for _ in range(self._num_envs)])


def record(
    policy: Policy,
    env: gymnasium.Env[Any, Any],
    *,
    num_steps: int,
    seed: int,
    source: Source,
    target_return: float = 0.0,
    on_episode: Callable[[int], object] = lambda num_steps: None,
) -> Episodes:
    """Whole episodes of the policy until they have num_steps steps; episode i resets with seed + i.

    on_episode is told the number of steps of each episode, when it has ended.
    """
    episodes: list[Episode] = []
    recorded = 0
    while recorded < num_steps:
        episodes.append(record_episode(policy, env, seed=seed + len(episodes), target_return=target_return))
        recorded += len(episodes[-1])
        on_episode(len(episodes[-1]))
    space = env.action_space
    num_actions = int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else None
    return Episodes.from_episodes(episodes, source, num_actions)


def record_episode(policy: Policy, env: gymnasium.Env[Any, Any], *, seed: int, target_return: float) -> Episode:
    """One episode, from reset to its end."""
    policy.reset(1, target_return)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], [0.0]
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy.act(observations[-1][None], np.array(rewards[-1:]))[0]
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
    return Episode(
        np.stack(observations[:-1]),
        np.stack(actions),
        np.array(rewards[1:]),
        terminated=bool(terminated),
        truncated=bool(truncated and not terminated),
        final_observation=observations[-1],
    )


def join(parts: list[Episodes], source: Source) -> Episodes:
    """The episodes of several sets, one after the other."""
    return Episodes.from_episodes([episode for part in parts for episode in part], source, parts[0].num_actions)
