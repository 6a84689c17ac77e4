"""Where tensors live and how many threads work on them."""

import os

import torch

from minrnn import scan


class DeviceError(ValueError):
    """A device that is asked for and not there. The message is for the user."""

    for_user = True


def choose_device(name: str, num_threads: int | None) -> torch.device:
    """The device called name, `auto` being the fastest there is; sets the number of CPU threads on the way.

    num_threads: None for every core that this process may run on.
    """
    scan.set_num_threads(num_threads or len(_usable_cores()))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.split(":")[0]
    if not there.get(kind, False):
        usable = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise DeviceError(f"device={name} is not there; this machine and this build of torch offer {usable}")
    return torch.device(name)


def _usable_cores() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS or Windows
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))
