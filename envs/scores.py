"""What scores of several runs say together: means with their spread, differences, and how sure they are.

Scores are [runs, tasks] matrices, one column a task, one row a seed; intervals are stratified bootstraps that resample
the runs of each task on their own (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
Statistic = Callable[[Scores], "np.float64 | float"]
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A statistic, its interval, and the number of runs it rests on; the interval is None for a single run."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int


def mean(scores: Scores) -> float:
    return float(scores.mean())


def interquartile_mean(scores: Scores) -> float:
    """The mean of the middle half of all scores, as scipy trims."""
    from scipy.stats import trim_mean

    return float(trim_mean(scores, 0.25, axis=None))


def estimate(scores: ArrayLike, statistic: Statistic = mean, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """A statistic over [runs, tasks] scores, with its interval over runs."""
    scores = _matrix(scores)
    value = float(statistic(scores))
    if len(scores) == 1:
        return Estimate(value, None, None, 1)
    return Estimate(value, *_interval([scores], lambda s: statistic(s[0]), confidence, seed), len(scores))


def paired_difference(scores: ArrayLike, others: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean of scores minus others, run by run of the same seed and task."""
    ours, theirs = _matrix(scores), _matrix(others)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired scores must have the same shape; got {ours.shape} and {theirs.shape}")
    return estimate(ours - theirs, mean, confidence=confidence, seed=seed)


def probability_of_improvement(
    scores: ArrayLike, others: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """How often a run of the first beats one of the second on the same task, ties counting half; mean over tasks."""
    ours, theirs = _matrix(scores), _matrix(others)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"scores must be of the same tasks; got {ours.shape[1]} and {theirs.shape[1]} of them")

    def probability(both: list[Scores]) -> float:
        first, second = both[0][:, None, :], both[1][None, :, :]
        return float(((first > second) + 0.5 * (first == second)).mean())

    value, n = probability([ours, theirs]), min(len(ours), len(theirs))
    if n == 1:
        return Estimate(value, None, None, 1)
    return Estimate(value, *_interval([ours, theirs], probability, confidence, seed), n)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Scores:
    """The share of all runs and tasks that score above each threshold."""
    flat, above = _matrix(scores).ravel(), np.asarray(thresholds, dtype=np.float64)
    return np.asarray((flat[None] > above[:, None]).mean(axis=1))


def _matrix(scores: ArrayLike) -> Scores:
    matrix = np.asarray(scores, dtype=np.float64)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"expected scores as [runs, tasks], got shape {matrix.shape}")
    return matrix


def _interval(
    samples: list[Scores], statistic: Callable[[list[Scores]], float], confidence: float, seed: int
) -> tuple[float, float]:
    """Percentiles of the statistic over resampled runs; each task's column is resampled on its own."""
    rng = np.random.default_rng(seed)
    found = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        found[index] = statistic([_resampled(sample, rng) for sample in samples])
    low, high = np.percentile(found, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def _resampled(scores: Scores, rng: np.random.Generator) -> Scores:
    return np.take_along_axis(scores, rng.integers(len(scores), size=scores.shape), axis=0)
