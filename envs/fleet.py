"""Many environments stepped together, in this process or in several, none of which can take the others down."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from envs.checks import DataError
from envs.environments import TaskError

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]
GRACE = 30.0  # seconds a process is given beyond its environments' own limits: it starts, it is descheduled


class Stepped(NamedTuple):
    """What a step of all environments gave; all but failed are [num_envs]."""

    observations: NDArray[Any]
    rewards: NDArray[np.float64]
    ended: NDArray[np.bool_]
    successes: NDArray[np.int64]  # 1 or 0 as the environment said so far, -1 where it said nothing
    failed: dict[int, str]  # which environments failed, now or before, and why


class Fleet:
    """num_envs environments, in this process or shared by num_workers of their own.

    An environment that raises, gives NaN or takes longer than step_timeout seconds is failed until the next reset; the
    others go on. In this process only Python code can be interrupted, and only on POSIX; a worker that hangs in
    compiled code is killed, and all its environments have failed.
    """

    def __init__(self, make_env: MakeEnv, num_envs: int, num_workers: int, step_timeout: float) -> None:
        shares = [len(share) for share in np.array_split(np.arange(num_envs), min(num_workers, num_envs))]
        kind = LocalPart if len(shares) == 1 else RemotePart
        self._parts = [kind(make_env, share, step_timeout) for share in shares]
        self._places = np.cumsum([0, *shares])

    def reset(self, seeds: NDArray[np.int64]) -> Stepped:
        return self._together("reset", [seeds[rows].tolist() for rows in self._rows()])

    def step(self, actions: NDArray[Any]) -> Stepped:
        return self._together("step", [actions[rows] for rows in self._rows()])

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def _rows(self) -> Iterator[slice]:
        return (slice(a, b) for a, b in zip(self._places[:-1], self._places[1:], strict=True))

    def _together(self, command: str, shares: list[Any]) -> Stepped:
        for part, share in zip(self._parts, shares, strict=True):
            part.begin(command, share)
        found = [part.finish() for part in self._parts]
        if len(found) == 1:
            return found[0]
        failed = {
            int(first) + index: why
            for first, one in zip(self._places, found, strict=False)
            for index, why in one.failed.items()
        }
        columns: Any = [np.concatenate(column) for column in zip(*(one[:4] for one in found), strict=True)]
        return Stepped(columns[0], columns[1], columns[2], columns[3], failed)


class LocalPart:
    """Environments of this process."""

    def __init__(self, make_env: MakeEnv, num_envs: int, step_timeout: float) -> None:
        self._envs = SyncVectorEnv([lambda: RestAfterEnd(make_env(), step_timeout)] * num_envs)
        self._successes = np.full(num_envs, -1)
        self._failed: dict[int, str] = {}
        self._found: Stepped | None = None

    def begin(self, command: str, share: Any) -> None:
        with _alarms():
            self._begin(command, share)

    def _begin(self, command: str, share: Any) -> None:
        if command == "reset":
            self._successes, self._failed = np.full_like(self._successes, -1), {}
            observations, infos = self._envs.reset(seed=share)
            rewards = np.zeros(len(self._successes))
        else:
            observations, rewards, _, _, infos = self._envs.step(share)
        if "success" in infos:
            self._successes = np.where(infos["_success"], infos["success"], self._successes)
        if "failed" in infos:
            self._failed = {int(i): str(infos["failed"][i]) for i in np.flatnonzero(infos["_failed"])}
        self._found = Stepped(observations, rewards, infos["ended"], self._successes, self._failed)

    def finish(self) -> Stepped:
        if self._found is None:
            raise RuntimeError("finish without begin")
        return self._found

    def close(self) -> None:
        self._envs.close()


class RemotePart:
    """Environments of a process of their own, which is replaced at the next reset if it died or was killed."""

    def __init__(self, make_env: MakeEnv, num_envs: int, step_timeout: float) -> None:
        self._arguments = (make_env, num_envs, step_timeout)
        self._num_envs, self._limit = num_envs, num_envs * step_timeout + GRACE
        self._process: Any = None
        self._last: Stepped | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process with threads in it may lock up
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        with deaf_to_signals():
            self._process.start()
        theirs.close()
        self._failure: str | None = None
        self._last = self._answer()
        if self._failure is not None:
            raise TaskError(f"a process for environments could not start: {self._failure}")

    def begin(self, command: str, share: Any) -> None:
        if command == "reset" and self._failure is not None:
            self._start()
        if self._failure is None:
            try:
                self._connection.send((command, share))
            except OSError as error:
                self._fail(f"its process is gone ({error})")

    def finish(self) -> Stepped:
        if self._failure is None:
            self._last = self._answer() or self._last
        if self._failure is None and self._last is not None:
            return self._last
        if self._last is None:
            raise TaskError(f"a process for environments failed: {self._failure}")
        everyone = dict.fromkeys(range(self._num_envs), str(self._failure))
        still = self._last
        return still._replace(
            rewards=np.zeros_like(still.rewards), ended=np.ones_like(still.ended), failed={**everyone, **still.failed}
        )

    def _answer(self) -> Stepped | None:
        """What the process has to say; None once it is gone."""
        try:
            if not self._connection.poll(self._limit):
                self._fail(f"its process did not answer within {self._limit:.0f} s and was killed")
                return None
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(timeout=5)  # it closed the connection a moment before it was gone
            self._fail(f"its process died (exit code {self._process.exitcode})")
            return None
        if isinstance(answer, Exception):
            self.close()
            raise answer
        found: Stepped = answer
        return found

    def _fail(self, why: str) -> None:
        self._failure = why
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()


@contextmanager
def deaf_to_signals() -> Iterator[None]:
    """Processes that are started inside hear no signal but SIGKILL: whoever started them decides when they end.

    A launcher that warns or ends a run sends its signal to all of its processes.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Any, make_env: MakeEnv, num_envs: int, step_timeout: float) -> None:
    """The loop of a worker process. Its first answer says that it has started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems without signal masks
    try:
        part = LocalPart(make_env, num_envs, step_timeout)
        shape = part._envs.observation_space.shape or ()
    except (TaskError, DataError) as error:
        connection.send(TaskError(str(error)))
        return
    nothing = np.zeros(num_envs)
    connection.send(Stepped(np.zeros(shape, np.float32), nothing, nothing > 0, np.full(num_envs, -1), {}))
    with closing(part):
        while True:
            try:
                command, share = connection.recv()
            except (EOFError, OSError):
                return
            part.begin(command, share)
            connection.send(part.finish())


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
                signal.setitimer(signal.ITIMER_REAL, self._step_timeout)  # the next step, or _alarms, ends it
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
def _alarms() -> Iterator[None]:
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
