"""minGRU and minLSTM on CUDA (Triton): gates and recurrence in one pass, forward and backward.

One program walks one row of the batch through time for a block of channels, with the state in float32 registers;
inputs may be float32, bfloat16 or float16. Shapes and formulas are those of `minrnn.kernels.cpu`: with u the share of
the candidate c in the new state, h_t = h_{t-1} + u_t (c_t - h_{t-1}).
"""

# mypy: disable-error-code="no-untyped-def"
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32
NUM_GATES = {"min_gru": 2, "min_lstm": 3}


@triton.jit
def _log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _shares(gates, size, inside, num_gates: tl.constexpr):
    """The share of the candidate and that of the old state, each to full relative precision."""
    x = tl.load(gates, inside, 0.0).to(tl.float32)
    if num_gates == 3:
        x = _log_sigmoid(tl.load(gates + size, inside, 0.0).to(tl.float32)) - _log_sigmoid(x)
    return tl.sigmoid(x), tl.sigmoid(-x)


@triton.jit
def _candidate(x, positive: tl.constexpr):
    """The candidate and its derivative."""
    if positive:
        up, down = tl.sigmoid(x), tl.sigmoid(-x)
        value, slope = tl.where(x >= 0, x + 0.5, up), tl.where(x >= 0, 1.0, up * down)
    else:
        value, slope = x, tl.full(x.shape, 1.0, tl.float32)
    return value, slope


@triton.jit
def _forward(
    projection,
    state,
    starts,
    h,
    time,
    size,
    has_starts: tl.constexpr,
    num_gates: tl.constexpr,
    positive: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < size
    carried = tl.load(state + row * size + channel, inside, 0.0).to(tl.float32)
    gates = projection + row * time * num_gates * size + channel
    out = h + row * time * size + channel
    for t in range(time):
        if has_starts:
            carried = tl.where(tl.load(starts + row * time + t) != 0, 0.0, carried)
        share, _ = _shares(gates, size, inside, num_gates)
        content = tl.load(gates + (num_gates - 1) * size, inside, 0.0).to(tl.float32)
        candidate, _ = _candidate(content, positive)
        carried += share * (candidate - carried)
        tl.store(out, carried, inside)
        gates += num_gates * size
        out += size


@triton.jit
def _backward(
    projection,
    state,
    starts,
    h,
    grad_h,
    grad_projection,
    grad_state,
    time,
    size,
    has_starts: tl.constexpr,
    num_gates: tl.constexpr,
    positive: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < size
    carried = tl.zeros([block], tl.float32)
    for back in range(time):
        step = row * time + (time - 1 - back)
        gates = projection + step * num_gates * size + channel
        grads = grad_projection + step * num_gates * size + channel
        if back == time - 1:
            before = tl.load(state + row * size + channel, inside, 0.0).to(tl.float32)
        else:
            before = tl.load(h + (step - 1) * size + channel, inside, 0.0).to(tl.float32)
        if has_starts:
            begins = tl.load(starts + step) != 0
            before = tl.where(begins, 0.0, before)
        share, keep = _shares(gates, size, inside, num_gates)
        content = tl.load(gates + (num_gates - 1) * size, inside, 0.0).to(tl.float32)
        candidate, slope = _candidate(content, positive)
        g = carried + tl.load(grad_h + step * size + channel, inside, 0.0).to(tl.float32)
        grad_share = g * (candidate - before) * (share * keep)
        if num_gates == 3:
            forget = tl.load(gates, inside, 0.0).to(tl.float32)
            write = tl.load(gates + size, inside, 0.0).to(tl.float32)
            tl.store(grads, -grad_share * tl.sigmoid(-forget), inside)
            tl.store(grads + size, grad_share * tl.sigmoid(-write), inside)
        else:
            tl.store(grads, grad_share, inside)
        tl.store(grads + (num_gates - 1) * size, g * share * slope, inside)
        carried = g * keep
        if has_starts:
            carried = tl.where(begins, 0.0, carried)
    tl.store(grad_state + row * size + channel, carried, inside)


def forward(name: str, projection: Tensor, state: Tensor, starts: Tensor | None, positive: bool) -> Tensor:
    """Every state h [batch, time, size], in the type of the projection; see `minrnn.fused`."""
    projection, state, flags = projection.contiguous(), state.contiguous(), _flags(starts, projection)
    h = projection.new_empty(*projection.shape[:2], state.shape[1])
    launch, settings = _launch(name, h, starts, positive)
    _forward[launch](projection, state, flags, h, *h.shape[1:], **settings)
    return h


def backward(
    name: str, projection: Tensor, state: Tensor, starts: Tensor | None, positive: bool, h: Tensor, grad_h: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of projection and state; see `minrnn.fused`."""
    projection, state, flags = projection.contiguous(), state.contiguous(), _flags(starts, projection)
    grad_projection, grad_state = torch.empty_like(projection), torch.empty_like(state)
    launch, settings = _launch(name, h, starts, positive)
    given = (projection, state, flags, h, grad_h.contiguous(), grad_projection, grad_state)
    _backward[launch](*given, *h.shape[1:], **settings)
    return grad_projection, grad_state


def _flags(starts: Tensor | None, projection: Tensor) -> Tensor:
    """starts as bytes; where there are none, anything: it is not read."""
    return projection if starts is None else starts.to(torch.uint8).contiguous()


def _launch(name: str, h: Tensor, starts: Tensor | None, positive: bool) -> tuple[tuple[int, int], dict[str, Any]]:
    grid = (h.shape[0], triton.cdiv(h.shape[2], BLOCK))
    return grid, {
        "has_starts": starts is not None,
        "num_gates": NUM_GATES[name],
        "positive": positive,
        "block": BLOCK,
        "num_warps": 1,
    }
