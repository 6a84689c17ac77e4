"""Signals that ask a run to save, or to save and end: heard at once, obeyed between two gradient steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

ENDING = ("SIGTERM", "SIGINT")
SAVING = ("SIGUSR1", "SIGUSR2")  # what Slurm and its launchers send some time before the end


class Interrupted(SystemExit):
    """The run was asked to end; its exit status is 128 + the signal, as a shell would say."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Interruptions:
    """While open, a signal is noted and whoever handled it before is called too.

    What is to be done about it is settled by `agree`, once a step, so that processes that train together do the same.
    A second SIGINT or SIGTERM ends the run at once, but not in the middle of a save: `saving` holds it back that long.
    """

    def __init__(self) -> None:
        self.asked_to_save = False
        self._ending: int | None = None
        self._heard_saving = False
        self._heard_ending: int | None = None
        self._at_once: int | None = None
        self._is_saving = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in (*ENDING, *SAVING):
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if signal.Signals(number).name in SAVING:
            self._heard_saving = True
        elif self._heard_ending is None:
            self._heard_ending = number
            print(f"\n{signal.Signals(number).name}: saving after this step; once more to end at once", flush=True)
        elif self._is_saving:
            self._at_once = number
        else:
            raise Interrupted(number)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)

    def agree(self, largest: Callable[[list[int]], list[int]]) -> None:
        """Settles for this step what any of the processes heard, given the largest of each number over all of them."""
        saving, ending = largest([int(self._heard_saving), self._heard_ending or 0])
        self._heard_saving = False
        self.asked_to_save = bool(saving or ending)
        self._ending = ending or None

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A save inside is finished, whatever comes."""
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False
        if self._at_once is not None:
            raise Interrupted(self._at_once)

    def end_if_asked(self) -> None:
        """Raises Interrupted if the run was asked to end; call it when all is saved."""
        if self._ending is not None:
            raise Interrupted(self._ending)
