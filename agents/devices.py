"""Where tensors live, how many threads work on them, and what becomes of memory that they free."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from agents.parallel import processes_here
from minrnn import scan

# How the allocators that have no exception of their own say it: torch on a CPU, and on Apple's GPUs.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class DeviceError(ValueError):
    """A device that is asked for and not there, or too small. The message is for the user."""

    for_user = True


@contextmanager
def advising_on_memory(advice: str) -> Iterator[None]:
    """Turns a lack of memory, of the machine or of its GPU, into a DeviceError that ends with this advice."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DeviceError(f"out of memory ({first_line(error)}). {advice}") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise DeviceError(f"out of memory ({first_line(error)}). {advice}") from error


def choose_device(name: str, num_threads: int | None) -> torch.device:
    """The device called name, `auto` being the fastest there is; sets the number of CPU threads on the way.

    num_threads: None for OMP_NUM_THREADS, and where that is not set for every core that this process may run on, shared
    with the others that train with it here.
    """
    scan.set_num_threads(num_threads or _asked_of_openmp() or max(1, len(_usable_cores()) // processes_here()))
    keep_freed_memory()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.split(":")[0]
    if not there.get(kind, False):
        usable = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise DeviceError(f"device={name} is not there; this machine and this build of torch offer {usable}")
    return torch.device(name)


def keep_freed_memory() -> None:
    """Has this process reuse the memory of large tensors rather than give it back and ask again, page by page.

    A training step frees and allocates the same sizes over and over; by default glibc unmaps them each time, and
    touching fresh pages then costs as much as computing on them. Elsewhere than on glibc nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_threshold, 32 * 1024**2)  # the largest it takes
        mallopt(trim_threshold, 1024**3)


def first_line(error: Exception) -> str:
    """Of its message, for a message of ours."""
    return (str(error).splitlines() or ["no more was said"])[0]


def _asked_of_openmp() -> int | None:
    """What OMP_NUM_THREADS says, which torchrun sets to 1 unless it is set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and processes_here() == 1 and int(asked) > 0 else None


def _usable_cores() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS or Windows
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))
