"""Plays many episodes at once with one policy, and says how sure the mean is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.fleet import Fleet, MakeEnv
from envs.references import normalized_score


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
    success. failures: the seeds of episodes that an environment could not finish, and why; they are in none of the
    arrays. env_seconds is the part of seconds spent inside the environments.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    successes: NDArray[np.bool_] | None
    seeds: NDArray[np.int64]
    failures: dict[int, str]
    seconds: float
    env_seconds: float


def evaluate(
    policy: Policy,
    make_env: MakeEnv,
    *,
    num_episodes: int,
    target_return: float,
    seed: int,
    num_envs: int,
    num_workers: int = 1,
    step_timeout: float = 60.0,
) -> Evaluation:
    """Plays num_episodes in waves of num_envs; episode i resets with seed + i, whatever num_envs and num_workers are.

    num_workers: processes that share the environments; 1 for none but this one. step_timeout: seconds that a single
    step of one environment may take.
    """
    if num_envs < 1 or num_workers < 1:
        raise ValueError(f"num_envs and num_workers must be at least 1; got {num_envs} and {num_workers}")
    seeds = seed + np.arange(num_episodes)
    waves = [seeds[first : first + num_envs] for first in range(0, num_episodes, num_envs)]
    played: list[_Wave] = []
    began, env_seconds = time.perf_counter(), 0.0
    with ExitStack() as opened:
        made: dict[int, Fleet] = {}  # all waves but the last are of one size: their environments are kept
        for wave in waves:
            env_seconds -= time.perf_counter()
            if len(wave) not in made:
                fleet = Fleet(make_env, len(wave), num_workers, step_timeout)
                made[len(wave)] = opened.enter_context(closing(fleet))
            env_seconds += time.perf_counter()
            played.append(_play_wave(policy, made[len(wave)], wave, target_return))
    seconds = time.perf_counter() - began
    failed = {seed: why for wave in played for seed, why in wave.failed.items()}
    kept = ~np.isin(seeds, [*failed])
    said = _joined([wave.successes for wave in played], np.int64)[kept]
    return Evaluation(
        returns=_joined([wave.returns for wave in played], np.float64)[kept],
        lengths=_joined([wave.lengths for wave in played], np.int64)[kept],
        successes=said == 1 if (said >= 0).any() else None,
        seeds=seeds[kept],
        failures=failed,
        seconds=seconds,
        env_seconds=env_seconds + sum(wave.env_seconds for wave in played),
    )


def merged(parts: Sequence[Evaluation]) -> Evaluation:
    """What several processes played at the same time, as one evaluation."""
    played = [part for part in parts if len(part.returns)] or parts[:1]
    said = [part.successes for part in played if part.successes is not None]
    return Evaluation(
        returns=np.concatenate([part.returns for part in played]),
        lengths=np.concatenate([part.lengths for part in played]),
        successes=np.concatenate(said) if len(said) == len(played) else None,
        seeds=np.concatenate([part.seeds for part in played]),
        failures={seed: why for part in parts for seed, why in part.failures.items()},
        seconds=max(part.seconds for part in parts),
        env_seconds=max(part.env_seconds for part in parts),
    )


class _Wave(NamedTuple):
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    successes: NDArray[np.int64]  # 1, 0, or -1 where the environment said nothing
    failed: dict[int, str]  # by the seed of the episode
    env_seconds: float


def _joined(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _play_wave(policy: Policy, fleet: Fleet, seeds: NDArray[np.int64], target_return: float) -> _Wave:
    """One episode for each seed, all at once."""
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    policy.reset(len(seeds), target_return)
    began = time.perf_counter()
    now = fleet.reset(seeds)
    env_seconds = time.perf_counter() - began
    while not now.ended.all():
        alive = ~now.ended
        actions = policy.act(now.observations, now.rewards)
        began = time.perf_counter()
        now = fleet.step(actions)
        env_seconds += time.perf_counter() - began
        returns += now.rewards
        lengths += alive
    failed = {int(seeds[index]): why for index, why in now.failed.items()}
    return _Wave(returns, lengths, now.successes, failed, env_seconds)


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
    scores = normalized_score(values, reference)
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
