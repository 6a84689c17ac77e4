"""Evaluation: many environments at once, episodes that end at different times, failures named, honest intervals."""

import multiprocessing
import os
import signal
import time
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs.environments import TaskError
from envs.evaluate import Evaluation, evaluate, summarize


class Countdown(gymnasium.Env[Any, Any]):
    """Lasts seed % 7 + 1 steps and rewards the action taken; refuses to be stepped after its end."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.seed, self.left = seed, seed % 7 + 1
        return np.array([seed, self.left], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.left > 0, "stepped after its end"
        self.left -= 1
        return np.array([self.seed, self.left], np.float32), float(action[0]), self.left == 0, False, {}


class SumOfRewards:
    """Acts with its observation plus what it earned so far, so that a lost reward or a mixed-up row shows."""

    def reset(self, num_envs: int, target_return: float) -> None:
        self.earned = np.full(num_envs, target_return)

    def act(self, observations: Any, rewards: Any) -> Any:
        self.earned = self.earned + rewards
        return (observations.sum(1) + 0.5 * self.earned)[:, None]


def slow_return(seed: int, target_return: float) -> tuple[float, int]:
    env, earned, reward = Countdown(), target_return, 0.0
    observation, _ = env.reset(seed=seed)
    total, length, ended = 0.0, 0, False
    while not ended:
        earned += reward
        observation, reward, ended, _, _ = env.step([observation.sum() + 0.5 * earned])
        total, length = total + reward, length + 1
    return total, length


def play(num_envs: int, make: Any = Countdown, num_episodes: int = 10, **settings: Any) -> Evaluation:
    return evaluate(
        SumOfRewards(), make, num_episodes=num_episodes, target_return=3.0, seed=5, num_envs=num_envs, **settings
    )


@pytest.mark.parametrize(("num_envs", "num_workers"), [(1, 1), (3, 1), (10, 1), (64, 1), (7, 2), (64, 3)])
def test_the_result_is_that_of_one_episode_after_another(num_envs: int, num_workers: int) -> None:
    found = play(num_envs, num_workers=num_workers)
    expected = [slow_return(seed, 3.0) for seed in range(5, 15)]
    np.testing.assert_allclose(found.returns, [total for total, _ in expected], rtol=1e-5)
    assert found.lengths.tolist() == [length for _, length in expected]
    assert found.seeds.tolist() == list(range(5, 15))
    assert found.failures == {}


class Raises(Countdown):
    def step(self, action: Any) -> Any:
        if self.seed == 7:
            raise RuntimeError("out of balance")
        return super().step(action)


class CannotReset(Countdown):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed == 7:
            raise RuntimeError("no ground")
        return super().reset(seed=seed, options=options)


class GivesNaN(Countdown):
    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return (observation * np.nan if self.seed == 7 else observation, *rest)


class Hangs(Countdown):
    def step(self, action: Any) -> Any:
        if self.seed == 7:
            time.sleep(60)
        return super().step(action)


class Dies(Countdown):
    def step(self, action: Any) -> Any:
        if self.seed == 7:
            os._exit(3)
        return super().step(action)


class HangsDeep(Countdown):
    """As compiled code does: no signal reaches it."""

    def step(self, action: Any) -> Any:
        if self.seed == 7:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(60)
        return super().step(action)


@pytest.mark.fault("an environment that raises, hangs or gives NaN while it is played")
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Raises, "RuntimeError: out of balance"),
        (CannotReset, "RuntimeError: no ground"),
        (GivesNaN, "FloatingPointError: it gave a NaN or infinite observation"),
        (Hangs, "TimeoutError: it took longer than 0.5 s"),
    ],
)
def test_an_episode_that_fails_is_named_and_the_others_go_on(make: Any, reason: str, num_workers: int) -> None:
    found = play(4, make, num_workers=num_workers, step_timeout=0.5)
    assert found.failures == {7: reason}
    others = [seed for seed in range(5, 15) if seed != 7]
    assert found.seeds.tolist() == others
    np.testing.assert_allclose(found.returns, [slow_return(seed, 3.0)[0] for seed in others], rtol=1e-5)


@pytest.mark.fault("a process of environments that dies, or hangs in compiled code")
@pytest.mark.parametrize(("make", "reason"), [(Dies, "exit code 3"), (HangsDeep, "did not answer within")])
def test_a_process_that_dies_or_hangs_takes_only_its_own_episodes_along(
    make: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envs.fleet.GRACE", 8.0)
    found = play(4, make, num_workers=2, step_timeout=0.1)
    assert set(found.failures) == {7, 8}  # seeds 5 to 8 in the first wave, 7 and 8 in the second process
    assert all(reason in why for why in found.failures.values())
    others = [5, 6, *range(9, 15)]
    assert found.seeds.tolist() == others
    np.testing.assert_allclose(found.returns, [slow_return(seed, 3.0)[0] for seed in others], rtol=1e-5)
    assert not multiprocessing.active_children()


def no_environment() -> Any:
    raise TaskError("there is none")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_environment_that_cannot_be_made_ends_the_evaluation(num_workers: int) -> None:
    with pytest.raises(TaskError, match="there is none"):
        play(4, no_environment, num_workers=num_workers)
    assert not multiprocessing.active_children()


def test_the_score_is_normalised_and_its_interval_holds_the_mean() -> None:
    score = summarize([0.0, 50.0, 100.0, 150.0], {"min": 50.0, "max": 150.0})
    assert score["mean"] == pytest.approx(25.0)
    assert -50 <= score["ci_low"] < 25 < score["ci_high"] <= 100
    assert (score["n"], score["reason"]) == (4, None)


def test_equal_returns_have_an_interval_of_no_width() -> None:
    score = summarize([7.0, 7.0], {"min": 0.0, "max": 10.0})
    assert score["ci_low"] == score["mean"] == score["ci_high"] == 70.0


def test_one_episode_has_a_score_and_no_interval() -> None:
    score = summarize([5.0], {"min": 0.0, "max": 10.0})
    assert (score["mean"], score["ci_low"], score["ci_high"], score["std"]) == (50.0, None, None, None)
    assert "single episode" in score["reason"]


def test_each_environment_is_made_once_and_closed_at_the_end() -> None:
    made: list[Countdown] = []
    closed: list[Countdown] = []

    class Counted(Countdown):
        def __init__(self) -> None:
            made.append(self)

        def close(self) -> None:
            closed.append(self)

    play(3, Counted, num_episodes=10)  # three waves of three environments and one of one
    assert len(made) == 4
    assert set(made) == set(closed)


@pytest.mark.fault("no reference scores: a reason instead of a number")
def test_without_reference_scores_or_episodes_there_is_a_reason_and_no_number() -> None:
    assert summarize([1.0], None)["mean"] is None
    assert "reference" in summarize([1.0], None)["reason"]
    assert summarize([], {"min": 0.0, "max": 1.0})["reason"] == "not evaluated"
