"""Several sequences in one row, for mixers that can begin anew only at the edge of a call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

State = TypeVar("State")


def forward_between_starts(
    forward: Callable[[Tensor, State], tuple[Tensor, State]],
    x: Tensor,
    state: State,
    starts: Tensor | None,
    forget: Callable[[State, Tensor], State],
) -> tuple[Tensor, State]:
    """forward(x, state), but the time axis is cut wherever some row starts, and there those rows forget their state.

    x [batch, time, ...], starts [batch, time]. forget(state, rows [batch]) gives the state without that of these rows.
    """
    if starts is None:
        return forward(x, state)
    cuts = sorted({0, x.shape[1], *starts.any(dim=0).nonzero().flatten().tolist()})
    outputs = []
    for begin, end in itertools.pairwise(cuts):
        state = forget(state, starts[:, begin])
        y, state = forward(x[:, begin:end], state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state
