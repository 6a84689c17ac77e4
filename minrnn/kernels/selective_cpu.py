"""Mamba's selective scan on the CPU: forward and backward without ever holding the states of all rows in memory.

Threads share rows. Within a row the loop over a block of channels is innermost, so that it becomes SIMD code, and the
states of the block stay in the cache. The state is carried in float64 (see `minrnn.kernels.cpu`); the backward pass
runs the row forward again rather than have the forward pass keep every state. Shapes are those of `minrnn.selective`.
"""

# mypy: disable-error-code="no-untyped-def"
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from minrnn.kernels import simd
from minrnn.kernels.cpu import _array, _flags
from minrnn.kernels.simd import F32, FAST

BLOCK = 64  # channels whose states are in the cache at once
_KERNEL: dict[str, Any] = {"parallel": True, "nogil": True, "cache": True, "fastmath": FAST, "error_model": "numpy"}


@njit(**simd.INLINE)
def _share(z):
    """1 - e^-z for z >= 0 to full relative precision, and e^-z."""
    keep = simd.exp(-z)
    series = z * (F32(1.0) - z * (F32(0.5) - z * (F32(1 / 6) - z * (F32(1 / 24) - z * F32(1 / 120)))))
    share = series if z < F32(0.125) else F32(1.0) - keep
    return share, keep


@njit(**_KERNEL)
def _forward(x, dt, decay, write, read, state, starts, y, last):
    batch, time, channels = x.shape
    num_states = decay.shape[0]
    for row in prange(batch):
        for first in range(0, channels, BLOCK):
            end = min(first + BLOCK, channels)
            h = state[row, :, first:end].astype(np.float64)
            total = np.empty(end - first, np.float32)
            for t in range(time):
                if starts.size and starts[row, t]:
                    h[:] = 0.0
                total[:] = F32(0.0)
                given, step = x[row, t, first:end], dt[row, t, first:end]
                for n in range(num_states):
                    written, weight = write[row, t, n], read[row, t, n]
                    rate, carried = decay[n, first:end], h[n]
                    for c in range(end - first):
                        share, _ = _share(step[c] * rate[c])
                        carried[c] += share * (written * given[c] / rate[c] - carried[c])
                        total[c] += weight * F32(carried[c])
                y[row, t, first:end] = total
            last[row, :, first:end] = h


@njit(**_KERNEL)
def _backward(
    x, dt, decay, write, read, state, starts, grad_y, grad_last,
    grad_x, grad_dt, grad_decay, grad_write, grad_read, grad_state,
):  # fmt: skip
    batch, time, channels = x.shape
    num_states = decay.shape[0]
    for row in prange(batch):
        for first in range(0, channels, BLOCK):
            end = min(first + BLOCK, channels)
            width = end - first
            states = np.empty((time + 1, num_states, width), np.float32)  # states[t]: after t steps
            states[0] = state[row, :, first:end]
            h = states[0].astype(np.float64)
            for t in range(time):
                if starts.size and starts[row, t]:
                    h[:] = 0.0
                given, step = x[row, t, first:end], dt[row, t, first:end]
                for n in range(num_states):
                    written, rate, carried = write[row, t, n], decay[n, first:end], h[n]
                    for c in range(width):
                        share, _ = _share(step[c] * rate[c])
                        carried[c] += share * (written * given[c] / rate[c] - carried[c])
                states[t + 1] = h
            nothing = np.zeros((num_states, width), np.float32)
            grad_h = grad_last[row, :, first:end].astype(np.float64)
            sum_decay = np.zeros((num_states, width), np.float64)
            for t in range(time - 1, -1, -1):
                begins = starts.size > 0 and starts[row, t]
                previous = nothing if begins else states[t]
                given, step = x[row, t, first:end], dt[row, t, first:end]
                grad_out = grad_y[row, t, first:end]
                out_x, out_dt = grad_x[row, t, first:end], grad_dt[row, t, first:end]
                for n in range(num_states):
                    written, weight = write[row, t, n], read[row, t, n]
                    rate, grad, before, reached = decay[n, first:end], grad_h[n], previous[n], states[t + 1, n]
                    out_decay = sum_decay[n]
                    sum_read, sum_write = F32(0.0), F32(0.0)
                    for c in range(width):
                        share, keep = _share(step[c] * rate[c])
                        candidate = written * given[c] / rate[c]
                        g = F32(grad[c]) + weight * grad_out[c]
                        sum_read += grad_out[c] * reached[c]
                        grad_candidate = g * share / rate[c]
                        sum_write += grad_candidate * given[c]
                        out_x[c] += grad_candidate * written
                        slope = g * (candidate - before[c]) * keep
                        out_dt[c] += slope * rate[c]
                        out_decay[c] += slope * step[c] - grad_candidate * candidate
                        grad[c] = g * keep
                    grad_read[row, t, n] += sum_read
                    grad_write[row, t, n] += sum_write
                if begins:
                    grad_h[:] = 0.0
            grad_state[row, :, first:end] = grad_h
            grad_decay[row, :, first:end] = sum_decay


def forward(
    x: Tensor, dt: Tensor, decay: Tensor, write: Tensor, read: Tensor, state: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y and the state after the last step."""
    y, last = torch.empty(x.shape), torch.empty(state.shape)
    given = [_array(tensor) for tensor in (x, dt, decay, write, read, state)]
    _forward(*given, _flags(starts), y.numpy(), last.numpy())
    return y, last


def backward(
    x: Tensor,
    dt: Tensor,
    decay: Tensor,
    write: Tensor,
    read: Tensor,
    state: Tensor,
    starts: Tensor | None,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients of x, dt, decay, write, read and state."""
    given = [_array(tensor) for tensor in (x, dt, decay, write, read, state)]
    shapes = [x.shape, dt.shape, (len(x), *decay.shape), write.shape, read.shape, state.shape]
    grads = [torch.zeros(shape) for shape in shapes]
    outputs = [grad.numpy() for grad in grads]
    _backward(*given, _flags(starts), _array(grad_y), _array(grad_last), *outputs)
    grads[2] = grads[2].sum(0)
    return tuple(grads)
