"""How fast a run is, what it holds of the memory, and, if asked for, a trace of where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SKIPPED_STEPS = 5  # in which kernels are still compiled, memory is still asked for, and a step may be recorded


class Pace:
    """Steps a second since it was last asked; evaluation and saving count, as they do for whoever waits."""

    def __init__(self, first_step: int) -> None:
        self._step, self._time = first_step, time.perf_counter()

    def measure(self, step: int, device: torch.device) -> dict[str, float | None]:
        """{steps_per_second, memory_mb: the most this process ever had, gpu_memory_mb}; None where nothing tells."""
        import torch

        now = time.perf_counter()
        steps_per_second = (step - self._step) / (now - self._time)
        self._step, self._time = step, now
        on_gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        return {"steps_per_second": steps_per_second, "memory_mb": peak_memory_mb(), "gpu_memory_mb": on_gpu}


@contextmanager
def traced(path: Path, num_steps: int) -> Iterator[Callable[[], None]]:
    """Gives what is to be called after each step; after num_steps of them path holds a trace, for chrome://tracing.

    The first few steps are left out. num_steps: 0 for no trace.
    """
    if num_steps == 0:
        yield lambda: None
        return
    from torch import profiler

    when = profiler.schedule(wait=SKIPPED_STEPS - 1, warmup=1, active=num_steps, repeat=1)
    with profiler.profile(
        schedule=when,
        profile_memory=True,
        on_trace_ready=lambda found: found.export_chrome_trace(str(path)),
    ) as running:
        yield running.step


def peak_memory_mb() -> float | None:
    """The most memory this process ever had, where the system says."""
    import sys

    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def memory_advice(config: dict[str, Any]) -> str:
    """What to change when memory runs out; other settings are another run, which begins anew."""
    train, agent, backbone, evaluate = (config[group] for group in ("train", "agent", "backbone", "evaluate"))
    return (
        f"Training needs less with a lower train.batch_size (now {train['batch_size']}), agent.context_length "
        f"({agent['context_length']}), backbone.hidden_size ({backbone.get('hidden_size')}) or backbone.num_layers "
        f"({backbone.get('num_layers')}), evaluation with a lower evaluate.num_envs ({evaluate['num_envs']}); "
        "what other programs hold of the memory counts too"
    )
