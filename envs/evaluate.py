"""Plays many episodes at once with one policy, and says how sure the mean is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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

    successes [num_episodes]: whether the environment said so at some step of the episode; None if it never speaks of
    success. env_seconds is the part of seconds spent inside the environments.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    successes: NDArray[np.bool_] | None
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
        self._success: bool | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._last_observation, self._seed, self._success = None, seed, None
        observation, _ = self._checked(lambda: self.env.reset(seed=seed, options=options))
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._last_observation is not None:
            return self._last_observation, 0.0, False, False, self._info(ended=True)
        observation, reward, terminated, truncated, info = self._checked(lambda: self.env.step(action))
        if not np.isfinite(reward):
            raise TaskError(f"{self._name} gave reward {reward} in the episode of seed {self._seed}")
        if terminated or truncated:
            self._last_observation = observation
        said = info.get("success", info.get("is_success"))
        if said is not None:
            self._success = bool(self._success or said)
        return observation, float(reward), False, False, self._info(ended=bool(terminated or truncated))

    def _info(self, ended: bool) -> dict[str, Any]:
        """success: as the environment said so far; nothing while it said nothing, for every key costs time."""
        return {"ended": ended} if self._success is None else {"ended": ended, "success": self._success}

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
    returns, lengths, successes = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    began, env_seconds = time.perf_counter(), 0.0
    with ExitStack() as opened:
        made: dict[int, SyncVectorEnv] = {}  # all waves but the last are of one size: their environments are kept
        for wave in waves:
            env_seconds -= time.perf_counter()
            if len(wave) not in made:
                made[len(wave)] = opened.enter_context(closing(_side_by_side(make_env, len(wave))))
            env_seconds += time.perf_counter()
            played = _play_wave(policy, made[len(wave)], wave, target_return)
            returns.append(played.returns)
            lengths.append(played.lengths)
            successes.append(played.successes)
            env_seconds += played.env_seconds
    seconds = time.perf_counter() - began
    said = np.concatenate(successes)
    return Evaluation(
        np.concatenate(returns),
        np.concatenate(lengths),
        said == 1 if (said >= 0).any() else None,
        seeds,
        seconds,
        env_seconds,
    )


class _Wave(NamedTuple):
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    successes: NDArray[np.int64]  # 1, 0, or -1 where the environment said nothing
    env_seconds: float


def _side_by_side(make_env: Callable[[], gymnasium.Env[Any, Any]], num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: RestAfterEnd(make_env())] * num_envs)


def _play_wave(policy: Policy, envs: SyncVectorEnv, seeds: NDArray[np.int64], target_return: float) -> _Wave:
    """One episode for each seed, all at once."""
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    rewards, alive = np.zeros(len(seeds)), np.ones(len(seeds), dtype=np.bool_)
    successes = np.full(len(seeds), -1)
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
        if "success" in infos:
            successes = np.where(infos["_success"], infos["success"], successes)
    return _Wave(returns, lengths, successes, env_seconds)


def summarize(values: ArrayLike, reference: Mapping[str, Any] | None, confidence: float = 0.95) -> dict[str, Any]:
    """The normalised score as {mean, ci_low, ci_high, std, n, confidence, reason}, over episodes.

    values: the returns, or whatever the reference scores are of. The interval is a percentile bootstrap of the mean,
    std that of a sample. What cannot be said is None and reason says why: nothing without episodes or reference
    scores, no spread from a single episode.
    """
    values = np.asarray(values, dtype=np.float64)
    nothing = dict.fromkeys(("mean", "ci_low", "ci_high", "std"))
    about = {"n": len(values), "confidence": confidence}
    if not len(values):
        return {**nothing, **about, "reason": "not evaluated"}
    if reference is None:
        return {**nothing, **about, "reason": "no reference scores for this environment"}
    scores = 100 * (values - reference["min"]) / (reference["max"] - reference["min"])
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
