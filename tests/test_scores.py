"""What several runs say together, against a loop, a formula or a case one can do in the head."""

from __future__ import annotations

import numpy as np
import pytest

from envs.scores import (
    estimate,
    interquartile_mean,
    mean,
    paired_difference,
    performance_profile,
    probability_of_improvement,
)

RNG = np.random.default_rng(0)
SCORES = RNG.normal(60, 10, (5, 4)) + 10 * np.arange(4)
OTHERS = RNG.normal(55, 10, (7, 4)) + 10 * np.arange(4)


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    scores = RNG.normal(size=(4, 5))
    assert interquartile_mean(scores) == pytest.approx(np.sort(scores.ravel())[5:15].mean())


def test_an_estimate_says_how_many_runs_it_rests_on_and_one_run_has_no_interval() -> None:
    found = estimate(SCORES)
    assert found.value == pytest.approx(SCORES.mean())
    assert found.n == 5
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < found.value < found.ci_high
    assert estimate([3.0]) == (3.0, None, None, 1)


def test_the_interval_of_one_task_is_scipys_bootstrap() -> None:
    from scipy.stats import bootstrap

    scores = SCORES[:, 0]
    expected = bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    found = estimate(scores)
    np.testing.assert_allclose(found[1:3], [expected.low, expected.high], atol=0.8)


def test_tasks_are_resampled_each_on_its_own() -> None:
    """Tasks of very different level, and no spread within them: the runs leave nothing to be unsure of."""
    scores = np.tile([0.0, 50.0, 100.0], (4, 1))
    assert estimate(scores)[:3] == (50.0, 50.0, 50.0)


def test_the_same_scores_give_the_same_interval() -> None:
    assert estimate(SCORES, interquartile_mean) == estimate(SCORES, interquartile_mean)


def test_a_paired_difference_sees_what_the_spread_of_seeds_hides() -> None:
    hard = 100 * RNG.random((6, 1))  # some seeds are lucky for both
    difference = paired_difference(hard + 2, hard + RNG.normal(0, 0.1, (6, 1)))
    assert difference.ci_low is not None
    assert difference.ci_low > 1.5
    assert difference.n == 6
    with pytest.raises(ValueError, match=r"the same shape; got \(5, 4\) and \(7, 4\)"):
        paired_difference(SCORES, OTHERS)


def test_the_probability_of_improvement_counts_pairs() -> None:
    expected = 0.0
    for task in range(4):
        pairs = [(a > b) + 0.5 * (a == b) for a in SCORES[:, task] for b in OTHERS[:, task]]
        expected += np.mean(pairs) / 4
    assert probability_of_improvement(SCORES, OTHERS).value == pytest.approx(expected)
    assert probability_of_improvement([1.0, 2.0], [1.0, 2.0]).value == 0.5
    assert probability_of_improvement([3.0, 4.0], [1.0, 2.0])[:3] == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="of the same tasks; got 4 and 1"):
        probability_of_improvement(SCORES, [1.0])


def test_a_profile_falls_from_all_to_none() -> None:
    profile = performance_profile(SCORES, [-1e9, np.median(SCORES), 1e9])
    assert profile.tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("scores", [[], np.zeros((0, 3)), np.zeros((2, 2, 2))])
def test_what_is_no_table_of_scores_is_refused(scores: object) -> None:
    with pytest.raises(ValueError, match=r"expected scores as \[runs, tasks\]"):
        estimate(scores, mean)  # type: ignore[arg-type]


def test_what_rliable_gives_is_what_we_give() -> None:
    """rliable 1.2.0 on SCORES and OTHERS; its intervals from 20,000 resamples."""
    found = (mean(SCORES), interquartile_mean(SCORES), probability_of_improvement(SCORES, OTHERS).value)
    np.testing.assert_allclose(found, (73.16821682571273, 73.27072901473342, 0.5428571428571429), rtol=1e-12)
    np.testing.assert_allclose(estimate(SCORES)[1:3], (69.811, 76.261), atol=0.3)
    np.testing.assert_allclose(estimate(SCORES, interquartile_mean)[1:3], (69.131, 77.415), atol=0.3)
