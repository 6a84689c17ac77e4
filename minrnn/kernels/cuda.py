"""minGRU and minLSTM on CUDA (Triton): gates and recurrence in one pass, forward and backward.

One program takes one row of the batch and a block of channels through time, tile by tile: within a tile all steps are
computed at once, by a scan, and one state in float32 is carried from tile to tile. Inputs may be float32, bfloat16 or
float16. Shapes and formulas are those of `minrnn.kernels.cpu`: with u the share of the candidate c in the new state,
h_t = h_{t-1} + u_t (c_t - h_{t-1}). A stretch of steps is h -> h + (moved - forgotten * h): kept so, and not as a
product of the 1 - u_t, a long memory (u near 0) is as exact as a short one.
"""

# mypy: disable-error-code="no-untyped-def"
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS, STEPS = 32, 64  # of a tile
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
def _then(forgotten, moved, also_forgotten, also_moved):
    """One stretch of steps and the next, as one."""
    return forgotten + also_forgotten * (1.0 - forgotten), moved + (also_moved - also_forgotten * moved)


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
    steps: tl.constexpr,
    channels: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channels + tl.arange(0, channels)
    carried = tl.load(state + row * size + channel, channel < size, 0.0).to(tl.float32)
    ahead = tl.arange(0, steps)
    for first in range(0, time, steps):
        step = first + ahead
        inside = (step < time)[:, None] & (channel < size)[None, :]
        flat = row * time + step
        gates = projection + (flat * num_gates * size)[:, None] + channel[None, :]
        share, _ = _shares(gates, size, inside, num_gates)
        content = tl.load(gates + (num_gates - 1) * size, inside, 0.0).to(tl.float32)
        candidate, _ = _candidate(content, positive)
        moved = share * candidate
        if has_starts:
            begins = tl.load(starts + flat, step < time, 0) != 0
            share = tl.where(begins[:, None], 1.0, share)
        forgotten, moved = tl.associative_scan((share, moved), 0, _then)
        reached = carried[None, :] + (moved - forgotten * carried[None, :])
        tl.store(h + (flat * size)[:, None] + channel[None, :], reached, inside)
        carried = tl.sum(tl.where((ahead == steps - 1)[:, None], reached, 0.0), 0)


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
    steps: tl.constexpr,
    channels: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channels + tl.arange(0, channels)
    first_state = tl.load(state + row * size + channel, channel < size, 0.0).to(tl.float32)
    carried = tl.zeros([channels], tl.float32)  # the whole gradient of the state after the tile
    ahead = tl.arange(0, steps)
    num_tiles = tl.cdiv(time, steps)
    for back in range(num_tiles):
        step = (num_tiles - 1 - back) * steps + ahead
        flat = row * time + step
        inside = (step < time)[:, None] & (channel < size)[None, :]
        gates = projection + (flat * num_gates * size)[:, None] + channel[None, :]
        states = h + (flat * size)[:, None] + channel[None, :]

        followed = (step + 1 < time)[:, None] & (channel < size)[None, :]
        lost, _ = _shares(gates + num_gates * size, size, followed, num_gates)  # by the step after
        if has_starts:
            cut = tl.load(starts + flat + 1, step + 1 < time, 0) != 0
            lost = tl.where(cut[:, None], 1.0, lost)
        arrived = tl.load(grad_h + (flat * size)[:, None] + channel[None, :], inside, 0.0).to(tl.float32)
        forgotten, moved = tl.associative_scan((lost, arrived), 0, _then, reverse=True)
        g = carried[None, :] + (moved - forgotten * carried[None, :])
        carried = tl.sum(tl.where((ahead == 0)[:, None], g, 0.0), 0)

        before = tl.load(states - size, inside & (step > 0)[:, None], 0.0).to(tl.float32)
        before = tl.where((step == 0)[:, None], first_state[None, :], before)
        if has_starts:
            begins = tl.load(starts + flat, step < time, 0) != 0
            before = tl.where(begins[:, None], 0.0, before)
        share, keep = _shares(gates, size, inside, num_gates)
        content = tl.load(gates + (num_gates - 1) * size, inside, 0.0).to(tl.float32)
        candidate, slope = _candidate(content, positive)
        grad_share = g * (candidate - before) * (share * keep)
        grads = grad_projection + (flat * num_gates * size)[:, None] + channel[None, :]
        if num_gates == 3:
            forget = tl.load(gates, inside, 0.0).to(tl.float32)
            write = tl.load(gates + size, inside, 0.0).to(tl.float32)
            tl.store(grads, -grad_share * tl.sigmoid(-forget), inside)
            tl.store(grads + size, grad_share * tl.sigmoid(-write), inside)
        else:
            tl.store(grads, grad_share, inside)
        tl.store(grads + (num_gates - 1) * size, g * share * slope, inside)

    _, keep = _shares(projection + row * time * num_gates * size + channel, size, channel < size, num_gates)
    if has_starts:
        keep = tl.where(tl.load(starts + row * time) != 0, 0.0, keep)
    tl.store(grad_state + row * size + channel, carried * keep, channel < size)


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
    batch_size, time, size = h.shape
    return (batch_size, triton.cdiv(size, CHANNELS)), {
        "has_starts": starts is not None,
        "num_gates": NUM_GATES[name],
        "positive": positive,
        "steps": max(16, min(STEPS, triton.next_power_of_2(time))),
        "channels": CHANNELS,
        "num_warps": 4,
    }
