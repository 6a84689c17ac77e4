"""Recall-v0: a cue at the first step, a long walk on which nothing is to be seen, and a question about the cue.

env_id=recall:Recall-v0 where this folder is on the path. The return is 1 for the right answer, else 0; one in four
guesses is right.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from envs import Episode, Episodes, Source

NUM_CUES, ASKED, LENGTH = 4, 4, 100
WALK = 0  # what everybody does between cue and question; what is done there has no effect


class Recall(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Observations: the cue one-hot at step 0, a flag at the last step, and noise in the last column throughout."""

    observation_space = Box(-10.0, 10.0, (NUM_CUES + 2,), np.float32)
    action_space = Discrete(NUM_CUES)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._cue, self._step = int(self.np_random.integers(NUM_CUES)), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        ends = self._step == LENGTH - 1
        reward = float(ends and int(action) == self._cue)
        self._step += 1
        return self._observe(), reward, ends, False, {}

    def _observe(self) -> NDArray[np.float32]:
        observation = np.zeros(NUM_CUES + 2, np.float32)
        if self._step == 0:
            observation[self._cue] = 1.0
        observation[ASKED] = self._step == LENGTH - 1
        observation[-1] = np.clip(self.np_random.standard_normal(), -10, 10)
        return observation


def record(num_episodes: int, seed: int) -> Episodes:
    """Walks of somebody who remembers the cue every other time and guesses otherwise."""
    env, rng, episodes = Recall(), np.random.default_rng(seed), []
    for index in range(num_episodes):
        observation, _ = env.reset(seed=seed + index)
        cue, observations, actions, rewards, ends = int(observation[:NUM_CUES].argmax()), [], [], [], False
        while not ends:
            asked = observation[ASKED] > 0
            remembers = rng.random() < 0.5
            action = WALK if not asked else cue if remembers else int(rng.integers(NUM_CUES))
            observations.append(observation)
            observation, reward, ends, _, _ = env.step(action)
            actions.append(action)
            rewards.append(reward)
        arrays = (np.array(observations), np.array(actions), np.array(rewards, np.float32))
        episodes.append(Episode(*arrays, terminated=True, truncated=False))
    return Episodes.from_episodes(episodes, Source("recall", ""), num_actions=NUM_CUES)


if "Recall-v0" not in gymnasium.registry:
    gymnasium.register("Recall-v0", Recall, max_episode_steps=LENGTH)
