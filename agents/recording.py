"""A gradient step as a GPU does it fastest: recorded once and replayed, as CUDA graphs.

A step of these agents is a few hundred kernels of some microseconds each; launching them one by one takes the CPU
several times as long as running them takes the GPU (benchmarks/recording.py prints both).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from agents.windows import Batch

# Steps taken before one is recorded: what is compiled, planned or allocated at first sight is then there.
STEPS_BEFORE = 3

Found = Any  # tensors, or containers of tensors
Recorder = Callable[[Callable[[], Found]], tuple[Found, Callable[[], None]]]


class Recording:
    """The two halves of a step: what is found from a batch, and what that changes; the caller may leave out the second.

    find and apply are called once, here; replaying them does what calling them again would, as long as they take
    nothing from the CPU that changes from step to step but the seed of torch's generator. batch: on the GPU; what find
    is given, and what later batches, all of its shape, are copied into.
    """

    def __init__(
        self, batch: Batch, find: Callable[[Batch], Found], apply: Callable[[], None], recorder: Recorder | None = None
    ) -> None:
        record = recorder or on_gpu()
        self._batch = batch
        self._found, self._find = record(lambda: find(batch))
        _, self.apply = record(apply)

    def find(self, batch: Batch) -> Found:
        """What `find` gives for this batch, in tensors that the next call overwrites; the GPU may still be at it."""
        for place, tensor in zip(self._batch, batch, strict=True):
            if place is not None and tensor is not None:
                place.copy_(tensor, non_blocking=True)
        self._find()
        return self._found


def on_gpu() -> Recorder:
    """Records functions as CUDA graphs that share their memory: they are to be replayed in the order of recording."""
    pool = torch.cuda.graph_pool_handle()

    def record(function: Callable[[], Found]) -> tuple[Found, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            found = function()
        return found, graph.replay

    return record
