"""Several processes that train one agent: which of them this is, what is its share, and what they tell each other.

torchrun starts them and says so in the environment; a process that was started alone is all there is, and then nothing
here costs anything. They tell each other numbers, and objects of their own making: nothing from outside is unpickled.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

TIMEOUT = timedelta(minutes=10)  # of what the others do between two meetings: an evaluation, or reading the data


class Ranks:
    """This process among `size` of them, numbered from 0. The first one writes, and speaks for all."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: NDArray[Any]) -> NDArray[Any]:
        """This process's part of what all of them have to do."""
        return np.array_split(items, self.size)[self.rank]

    def first(self, value: Any) -> Any:
        """What the first process has, for all of them."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        """What each of them has, by rank, for all of them."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return found

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Each number at its largest over the processes."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def mean(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Each number averaged over the processes, which name the same ones in the same order."""
        tensor = torch.tensor([float(value) for value in values.values()], dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(tensor)
        return dict(zip(values, (tensor / self.size).tolist(), strict=True))


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone; ends with them told that it is over."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def processes_here() -> int:
    """How many of them share this machine and its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
