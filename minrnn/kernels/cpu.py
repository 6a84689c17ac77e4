"""minGRU and minLSTM on the CPU: gates and recurrence in one pass over the projection, forward and backward.

The state is carried in float64 and everything else is float32: with gates near zero a float32 state drifts over
thousands of steps, a float64 one does not. Threads share (row, block of channels) pairs; within a pair the loop over
channels has no call and no branch that depends on the data, so it becomes SIMD code. A block is as wide as the number
of threads allows, so that memory is read in order, yet its carried state stays in the first-level cache.

Shapes: projection [batch, time, gates * size], state [batch, size], starts [batch, time] or [0, 0] for none,
h and grad_h [batch, time, size]. With u the share of the candidate c in the new state, both recurrences are
h_t = h_{t-1} + u_t (c_t - h_{t-1}); u is the update gate of minGRU and the normalised input gate of minLSTM.
"""

# mypy: disable-error-code="no-untyped-def"
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from minrnn.kernels import simd
from minrnn.kernels.simd import F32, FAST

NARROWEST, WIDEST = 64, 1024  # channels of a block
CHUNK = 4096
_KERNEL: dict[str, Any] = {"parallel": True, "nogil": True, "cache": True, "fastmath": FAST, "error_model": "numpy"}


@njit(**_KERNEL)
def _min_gru_forward(projection, state, starts, positive, block, h):
    batch, time, size = h.shape
    blocks = (size + block - 1) // block
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * block
        last = min(first + block, size)
        carried = state[row, first:last].astype(np.float64)
        for t in range(time):
            if starts.size and starts[row, t]:
                carried[:] = 0.0
            gate, content = projection[row, t, first:last], projection[row, t, size + first : size + last]
            out = h[row, t, first:last]
            for c in range(last - first):
                update, _ = simd.sigmoids(gate[c])
                candidate, _ = simd.candidate(content[c], positive)
                carried[c] += update * (candidate - carried[c])
                out[c] = carried[c]


@njit(**_KERNEL)
def _min_gru_backward(projection, state, starts, positive, block, h, grad_h, grad_projection, grad_state):
    batch, time, size = h.shape
    blocks = (size + block - 1) // block
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * block
        last = min(first + block, size)
        carried = np.zeros(last - first, np.float64)
        zeros = np.zeros(last - first, np.float32)
        for t in range(time - 1, -1, -1):
            begins = starts.size > 0 and starts[row, t]
            previous = zeros if begins else (h[row, t - 1, first:last] if t > 0 else state[row, first:last])
            gate, content = projection[row, t, first:last], projection[row, t, size + first : size + last]
            grad_gate = grad_projection[row, t, first:last]
            grad_content = grad_projection[row, t, size + first : size + last]
            grad = grad_h[row, t, first:last]
            for c in range(last - first):
                update, keep = simd.sigmoids(gate[c])
                candidate, slope = simd.candidate(content[c], positive)
                g = carried[c] + grad[c]
                grad_gate[c] = g * (candidate - previous[c]) * (update * keep)
                grad_content[c] = g * (update * slope)
                carried[c] = g * keep
            if begins:
                carried[:] = 0.0
        grad_state[row, first:last] = carried


@njit(**_KERNEL)
def _min_lstm_forward(projection, state, starts, positive, block, h):
    batch, time, size = h.shape
    blocks = (size + block - 1) // block
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * block
        last = min(first + block, size)
        carried = state[row, first:last].astype(np.float64)
        for t in range(time):
            if starts.size and starts[row, t]:
                carried[:] = 0.0
            forget, write = projection[row, t, first:last], projection[row, t, size + first : size + last]
            content = projection[row, t, 2 * size + first : 2 * size + last]
            out = h[row, t, first:last]
            for c in range(last - first):
                _, update, _, _ = simd.shares(forget[c], write[c])
                candidate, _ = simd.candidate(content[c], positive)
                carried[c] += update * (candidate - carried[c])
                out[c] = carried[c]


@njit(**_KERNEL)
def _min_lstm_backward(projection, state, starts, positive, block, h, grad_h, grad_projection, grad_state):
    batch, time, size = h.shape
    blocks = (size + block - 1) // block
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * block
        last = min(first + block, size)
        carried = np.zeros(last - first, np.float64)
        zeros = np.zeros(last - first, np.float32)
        for t in range(time - 1, -1, -1):
            begins = starts.size > 0 and starts[row, t]
            previous = zeros if begins else (h[row, t - 1, first:last] if t > 0 else state[row, first:last])
            forget, write = projection[row, t, first:last], projection[row, t, size + first : size + last]
            content = projection[row, t, 2 * size + first : 2 * size + last]
            grad_forget = grad_projection[row, t, first:last]
            grad_write = grad_projection[row, t, size + first : size + last]
            grad_content = grad_projection[row, t, 2 * size + first : 2 * size + last]
            grad = grad_h[row, t, first:last]
            for c in range(last - first):
                keep, update, f_closed, i_closed = simd.shares(forget[c], write[c])
                candidate, slope = simd.candidate(content[c], positive)
                g = carried[c] + grad[c]
                grad_share = g * (candidate - previous[c]) * (update * keep)
                grad_forget[c] = -grad_share * f_closed
                grad_write[c] = grad_share * i_closed
                grad_content[c] = g * (update * slope)
                carried[c] = g * keep
            if begins:
                carried[:] = 0.0
        grad_state[row, first:last] = carried


@njit(**_KERNEL)
def _gelu_forward(x, y):
    chunks = (x.size + CHUNK - 1) // CHUNK
    for chunk in prange(chunks):
        first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, x.size)
        given, out = x[first:last], y[first:last]
        for i in range(last - first):
            out[i], _ = simd.gelu(given[i])


@njit(**_KERNEL)
def _gelu_backward(x, grad_y, grad_x):
    chunks = (x.size + CHUNK - 1) // CHUNK
    for chunk in prange(chunks):
        first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, x.size)
        given, grad, out = x[first:last], grad_y[first:last], grad_x[first:last]
        for i in range(last - first):
            _, slope = simd.gelu(given[i])
            out[i] = grad[i] * slope


@njit(**_KERNEL)
def _add_dropped(x, y, seed, threshold, scale, out):
    """out = x + y * scale where the hash of the index is at least threshold, else x; x empty stands for zeros."""
    chunks = (y.size + CHUNK - 1) // CHUNK
    for chunk in prange(chunks):
        first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, y.size)
        given, result = y[first:last], out[first:last]
        if x.size == 0:
            for i in range(last - first):
                kept = simd.random_bits(first + i, seed) >= threshold
                result[i] = given[i] * scale if kept else F32(0.0)
        else:
            base = x[first:last]
            for i in range(last - first):
                kept = simd.random_bits(first + i, seed) >= threshold
                result[i] = base[i] + (given[i] * scale if kept else F32(0.0))


def add_dropped(x: Tensor | None, y: Tensor, probability: float, seed: int) -> Tensor:
    """x + dropout(y), x None for zeros; which elements are dropped is a function of the seed and their place."""
    out = torch.empty(y.shape)
    flat = [np.empty(0, np.float32) if t is None else _array(t).reshape(-1) for t in (x, y)]
    threshold, scale = np.uint32(round(probability * 2**32)), np.float32(1 / (1 - probability))
    _add_dropped(*flat, np.uint32(seed), threshold, scale, out.view(-1).numpy())
    return out


def gelu_forward(x: Tensor) -> Tensor:
    x = x.detach().contiguous()
    y = torch.empty_like(x)
    _gelu_forward(x.view(-1).numpy(), y.view(-1).numpy())
    return y


def gelu_backward(x: Tensor, grad_y: Tensor) -> Tensor:
    x, grad_y = x.detach().contiguous(), grad_y.contiguous()
    grad_x = torch.empty_like(x)
    _gelu_backward(x.view(-1).numpy(), grad_y.view(-1).numpy(), grad_x.view(-1).numpy())
    return grad_x


def forward(name: str, projection: Tensor, state: Tensor, starts: Tensor | None, positive: bool) -> Tensor:
    """Every state h [batch, time, size]; see `minrnn.fused`."""
    h = torch.empty(*projection.shape[:2], state.shape[1])
    kernel = {"min_gru": _min_gru_forward, "min_lstm": _min_lstm_forward}[name]
    kernel(_array(projection), _array(state), _flags(starts), positive, _block(*state.shape), h.numpy())
    return h


def backward(
    name: str, projection: Tensor, state: Tensor, starts: Tensor | None, positive: bool, h: Tensor, grad_h: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of projection and state; see `minrnn.fused`."""
    grad_projection = torch.empty(projection.shape)
    grad_state = torch.empty(state.shape)
    kernel = {"min_gru": _min_gru_backward, "min_lstm": _min_lstm_backward}[name]
    given = (_array(projection), _array(state), _flags(starts), positive, _block(*state.shape))
    kernel(*given, _array(h), _array(grad_h), grad_projection.numpy(), grad_state.numpy())
    return grad_projection, grad_state


def _block(batch: int, size: int) -> int:
    """Channels of a block: whole rows where there are enough of them for the threads, parts of rows otherwise."""
    parts = -(-numba.get_num_threads() // max(1, batch))
    return min(WIDEST, max(NARROWEST, -(-size // (parts * NARROWEST)) * NARROWEST))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().contiguous().numpy()


def _flags(starts: Tensor | None) -> NDArray[np.bool_]:
    return np.empty((0, 0), np.bool_) if starts is None else starts.contiguous().numpy()


def set_num_threads(num_threads: int) -> None:
    """Threads a kernel may use from now on; at most what numba started with."""
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
