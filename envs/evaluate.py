"""Plays many episodes at once with one policy, and says how sure the mean is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from numpy.typing import ArrayLike, NDArray

from envs.environments import TaskError


class Policy(Protocol):
    """All that evaluation knows of an agent."""

    def reset(self, num_envs: int, target_return: float) -> None:
        """Begins num_envs episodes at once."""

    def act(self, observations: NDArray[Any], rewards: NDArray[Any]) -> NDArray[Any]:
        """Actions [num_envs, ...]; rewards [num_envs] are those the last actions earned, zeros after reset."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths [num_episodes], the seed of each reset, and wall-clock seconds.

    env_seconds is the part of seconds spent inside the environments.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    seeds: NDArray[np.int64]
    seconds: float
    env_seconds: float


class RestAfterEnd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """After its episode's end an environment rests: it is not stepped, and repeats its last observation.

    The episodes of a wave end at different times, and a wave should cost only what is still alive. gymnasium's vector
    environments restart what has ended or refuse to step on, so the end is told in info["ended"] and not in the flags.
    An environment that raises or gives NaN ends the evaluation with the seed of its episode named.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._last_observation: Any = None
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._last_observation, self._seed = None, seed
        observation, _ = self._checked(lambda: self.env.reset(seed=seed, options=options))
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._last_observation is not None:
            return self._last_observation, 0.0, False, False, {"ended": True}
        observation, reward, terminated, truncated, _ = self._checked(lambda: self.env.step(action))
        if not np.isfinite(reward):
            raise TaskError(f"{self._name} gave reward {reward} in the episode of seed {self._seed}")
        if terminated or truncated:
            self._last_observation = observation
        return observation, float(reward), False, False, {"ended": bool(terminated or truncated)}

    def _checked(self, call: Callable[[], tuple[Any, ...]]) -> Any:
        try:
            answer = call()
        except Exception as error:  # an environment may raise anything
            raise TaskError(
                f"{self._name} raised {type(error).__name__} in the episode of seed {self._seed}: {error}"
            ) from error
        if not np.isfinite(answer[0]).all():
            raise TaskError(f"{self._name} gave a NaN or infinite observation in the episode of seed {self._seed}")
        return answer

    @property
    def _name(self) -> str:
        return self.spec.id if self.spec else str(self.env)


def evaluate(
    policy: Policy,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    *,
    num_episodes: int,
    target_return: float,
    seed: int,
    num_envs: int,
) -> Evaluation:
    """Plays num_episodes in waves of num_envs; episode i resets with seed + i, whatever num_envs is."""
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1; got {num_envs}")
    seeds = seed + np.arange(num_episodes)
    waves = [seeds[first : first + num_envs] for first in range(0, num_episodes, num_envs)]
    returns, lengths = [np.zeros(0)], [np.zeros(0, np.int64)]
    began, env_seconds = time.perf_counter(), 0.0
    with ExitStack() as opened:
        made: dict[int, SyncVectorEnv] = {}  # all waves but the last are of one size: their environments are kept
        for wave in waves:
            env_seconds -= time.perf_counter()
            if len(wave) not in made:
                made[len(wave)] = opened.enter_context(closing(_side_by_side(make_env, len(wave))))
            env_seconds += time.perf_counter()
            wave_returns, wave_lengths, wave_seconds = _play_wave(policy, made[len(wave)], wave, target_return)
            returns.append(wave_returns)
            lengths.append(wave_lengths)
            env_seconds += wave_seconds
    seconds = time.perf_counter() - began
    return Evaluation(np.concatenate(returns), np.concatenate(lengths), seeds, seconds, env_seconds)


def _side_by_side(make_env: Callable[[], gymnasium.Env[Any, Any]], num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: RestAfterEnd(make_env())] * num_envs)


def _play_wave(
    policy: Policy, envs: SyncVectorEnv, seeds: NDArray[np.int64], target_return: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """Returns and lengths of one episode for each seed, all at once, and the seconds spent inside the environments."""
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    rewards, alive = np.zeros(len(seeds)), np.ones(len(seeds), dtype=np.bool_)
    policy.reset(len(seeds), target_return)
    began = time.perf_counter()
    observations, _ = envs.reset(seed=seeds.tolist())
    env_seconds = time.perf_counter() - began
    while alive.any():
        actions = policy.act(observations, rewards)
        began = time.perf_counter()
        observations, rewards, _, _, infos = envs.step(actions)
        env_seconds += time.perf_counter() - began
        returns += rewards
        lengths += alive
        alive &= ~infos["ended"]
    return returns, lengths, env_seconds


def summarize(returns: ArrayLike, reference: Mapping[str, Any] | None, confidence: float = 0.95) -> dict[str, Any]:
    """The normalised score as {mean, ci_low, ci_high, std, n, confidence, reason}, over episodes.

    The interval is a percentile bootstrap of the mean, std that of a sample. What cannot be said is None and reason
    says why: nothing without episodes or reference scores, no spread from a single episode.
    """
    returns = np.asarray(returns, dtype=np.float64)
    nothing = dict.fromkeys(("mean", "ci_low", "ci_high", "std"))
    about = {"n": len(returns), "confidence": confidence}
    if not len(returns):
        return {**nothing, **about, "reason": "not evaluated"}
    if reference is None:
        return {**nothing, **about, "reason": "no reference scores for this environment"}
    scores = 100 * (returns - reference["min"]) / (reference["max"] - reference["min"])
    mean = float(scores.mean())
    if len(scores) == 1:
        return {**nothing, "mean": mean, **about, "reason": "a single episode has no spread"}
    ci_low, ci_high = _bootstrap_interval(scores, confidence)
    return {
        "mean": mean,
        "ci_low": ci_low,
        "ci_high": ci_high,
        "std": float(scores.std(ddof=1)),
        **about,
        "reason": None,
    }


def _bootstrap_interval(scores: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    from scipy.stats import bootstrap

    if np.ptp(scores) == 0:  # all alike: there is nothing to resample
        return float(scores[0]), float(scores[0])
    interval = bootstrap(
        (scores,), np.mean, confidence_level=confidence, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
