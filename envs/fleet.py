"""Many environments stepped together, in this process or in several, none of which can take the others down."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from envs.checks import DataError
from envs.environments import TaskError
from envs.guarded import RestAfterEnd, alarms

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
        with alarms():
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
