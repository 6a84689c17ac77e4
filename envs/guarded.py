"""One environment that cannot take others down: what it raises, gives or takes too long for ends its episode alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np


class RestAfterEnd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """After its episode's end, or its failure, an environment rests: it is not stepped, and repeats its observation.

    The episodes of a wave end at different times, and a wave should cost only what is still alive. gymnasium's vector
    environments restart what has ended or refuse to step on, so the end is told in info["ended"] and not in the flags;
    info["success"] and info["failed"] are there once there is something to say.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], step_timeout: float) -> None:
        super().__init__(env)
        self._step_timeout, self._has_alarm = step_timeout, can_be_interrupted()
        self._rests, self._success, self._failure = False, None, None  # type: tuple[bool, bool | None, str | None]
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._rests, self._success, self._failure = False, None, None
        space: Any = self.observation_space
        self._observation = np.zeros(space.shape, space.dtype)
        self._attempt(lambda: (*self.env.reset(seed=seed, options=options)[:1], 0.0))
        return self._observation, self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._rests:
            return self._observation, 0.0, False, False, self._info()
        told: dict[str, Any] = {}

        def step() -> tuple[Any, Any]:
            observation, reward, told["terminated"], told["truncated"], told["info"] = self.env.step(action)
            return observation, reward

        reward = self._attempt(step)
        if told and not self._rests:
            said = told["info"].get("success", told["info"].get("is_success"))
            if said is not None:
                self._success = bool(self._success or said)
            self._rests = bool(told["terminated"] or told["truncated"])
        return self._observation, reward, False, False, self._info()

    def _attempt(self, call: Callable[[], tuple[Any, Any]]) -> float:
        """The reward of a call that may do anything; what it does wrong becomes this episode's failure."""
        try:
            if self._has_alarm:
                signal.setitimer(signal.ITIMER_REAL, self._step_timeout)  # the next step, or alarms, ends it
            observation, reward = call()
            if not np.isfinite(reward):
                raise FloatingPointError(f"it gave reward {reward}")
            if not np.isfinite(observation).all():
                raise FloatingPointError("it gave a NaN or infinite observation")
        except Exception as error:
            why = f"it took longer than {self._step_timeout:g} s" if isinstance(error, TimeoutError) else str(error)
            self._rests, self._failure = True, f"{type(error).__name__}: {why}"
            return 0.0
        self._observation = observation
        return float(reward)

    def _info(self) -> dict[str, Any]:
        """Only what there is to say: every key costs time."""
        info: dict[str, Any] = {"ended": self._rests}
        if self._success is not None:
            info["success"] = self._success
        if self._failure is not None:
            info["failed"] = self._failure
        return info


def can_be_interrupted() -> bool:
    """Whether a signal can end a step that takes too long: POSIX, the main thread."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextmanager
def alarms() -> Iterator[None]:
    """Where an environment's alarm goes off, TimeoutError is raised in its code."""
    if not can_be_interrupted():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError("it took longer than a step may")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
