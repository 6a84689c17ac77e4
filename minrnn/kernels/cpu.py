"""minGRU and minLSTM on the CPU: gates and recurrence in one pass over the projection, forward and backward.

The state is carried in float64 and everything else is float32: with gates near zero a float32 state drifts over
thousands of steps, a float64 one does not. Threads share (row, block of channels) pairs; within a pair the loop over
channels has no call and no branch that depends on the data, so it becomes SIMD code, and the blocks are small enough
for its carried state to stay in the first-level cache.

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

BLOCK = 64
F32 = np.float32
# NaN and infinity must pass through: not all of `fastmath=True`.
_FAST = {"contract", "reassoc", "nsz", "arcp"}
_INLINE: dict[str, Any] = {"inline": "always", "fastmath": _FAST, "error_model": "numpy"}
_KERNEL: dict[str, Any] = {
    "parallel": True,
    "nogil": True,
    "cache": True,
    "fastmath": _FAST,
    "error_model": "numpy",
}


@njit(**_INLINE)
def _exp(x):
    """e^x for x <= 0 to one ulp, without a call: 2^n times a polynomial (coefficients of Cephes' expf)."""
    x = max(x, F32(-87.0))
    n = np.floor(x * F32(1.44269504088896341) + F32(0.5))
    r = x - n * F32(0.693359375) + n * F32(2.12194440e-4)
    p = F32(1.9875691500e-4)
    p = p * r + F32(1.3981999507e-3)
    p = p * r + F32(8.3334519073e-3)
    p = p * r + F32(4.1665795894e-2)
    p = p * r + F32(1.6666665459e-1)
    p = p * r + F32(5.0000001201e-1)
    p = p * r * r + r + F32(1.0)
    return p * np.int32((np.int32(n) + 127) << 23).view(np.float32)


@njit(**_INLINE)
def _sigmoids(x):
    """sigmoid(x) and 1 - sigmoid(x), both to full relative precision."""
    e = _exp(-abs(x))
    scale = F32(1.0) / (F32(1.0) + e)
    return (scale, e * scale) if x >= F32(0.0) else (e * scale, scale)


@njit(**_INLINE)
def _candidate(x, positive):
    """The candidate and its derivative: x itself, or g(x) of the paper's log-space form (appendix B.1)."""
    up, down = _sigmoids(min(x, F32(0.0)))
    value = x + F32(0.5) if x >= F32(0.0) else up
    slope = F32(1.0) if x >= F32(0.0) else up * down
    return (value, slope) if positive else (x, F32(1.0))


@njit(**_INLINE)
def _shares(forget, write):
    """f / (f + i), i / (f + i), 1 - f and 1 - i for the gates f = sigmoid(forget), i = sigmoid(write).

    When both gates are nearly closed the quotient is taken after dividing by the larger one: never 0 / 0.
    """
    f_exp, i_exp = _exp(-abs(forget)), _exp(-abs(write))
    ratio = _exp(-abs(forget - write))
    both_closed = forget < F32(0.0) and write < F32(0.0)
    f_open = F32(1.0) if forget >= F32(0.0) or (both_closed and forget >= write) else (ratio if both_closed else f_exp)
    i_open = F32(1.0) if write >= F32(0.0) or (both_closed and write > forget) else (ratio if both_closed else i_exp)
    f_weight, i_weight = f_open * (F32(1.0) + i_exp), i_open * (F32(1.0) + f_exp)
    scale = F32(1.0) / (f_weight + i_weight)
    f_closed = (f_exp if forget >= F32(0.0) else F32(1.0)) / (F32(1.0) + f_exp)
    i_closed = (i_exp if write >= F32(0.0) else F32(1.0)) / (F32(1.0) + i_exp)
    return f_weight * scale, i_weight * scale, f_closed, i_closed


@njit(**_KERNEL)
def _min_gru_forward(projection, state, starts, positive, h):
    batch, time, size = h.shape
    blocks = (size + BLOCK - 1) // BLOCK
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * BLOCK
        last = min(first + BLOCK, size)
        carried = state[row, first:last].astype(np.float64)
        for t in range(time):
            if starts.size and starts[row, t]:
                carried[:] = 0.0
            gate, content = projection[row, t, first:last], projection[row, t, size + first : size + last]
            out = h[row, t, first:last]
            for c in range(last - first):
                update, _ = _sigmoids(gate[c])
                candidate, _ = _candidate(content[c], positive)
                carried[c] += update * (candidate - carried[c])
                out[c] = carried[c]


@njit(**_KERNEL)
def _min_gru_backward(projection, state, starts, positive, h, grad_h, grad_projection, grad_state):
    batch, time, size = h.shape
    blocks = (size + BLOCK - 1) // BLOCK
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * BLOCK
        last = min(first + BLOCK, size)
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
                update, keep = _sigmoids(gate[c])
                candidate, slope = _candidate(content[c], positive)
                g = carried[c] + grad[c]
                grad_gate[c] = g * (candidate - previous[c]) * (update * keep)
                grad_content[c] = g * (update * slope)
                carried[c] = g * keep
            if begins:
                carried[:] = 0.0
        grad_state[row, first:last] = carried


@njit(**_KERNEL)
def _min_lstm_forward(projection, state, starts, positive, h):
    batch, time, size = h.shape
    blocks = (size + BLOCK - 1) // BLOCK
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * BLOCK
        last = min(first + BLOCK, size)
        carried = state[row, first:last].astype(np.float64)
        for t in range(time):
            if starts.size and starts[row, t]:
                carried[:] = 0.0
            forget, write = projection[row, t, first:last], projection[row, t, size + first : size + last]
            content = projection[row, t, 2 * size + first : 2 * size + last]
            out = h[row, t, first:last]
            for c in range(last - first):
                _, update, _, _ = _shares(forget[c], write[c])
                candidate, _ = _candidate(content[c], positive)
                carried[c] += update * (candidate - carried[c])
                out[c] = carried[c]


@njit(**_KERNEL)
def _min_lstm_backward(projection, state, starts, positive, h, grad_h, grad_projection, grad_state):
    batch, time, size = h.shape
    blocks = (size + BLOCK - 1) // BLOCK
    for index in prange(batch * blocks):
        row, first = index // blocks, (index % blocks) * BLOCK
        last = min(first + BLOCK, size)
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
                keep, update, f_closed, i_closed = _shares(forget[c], write[c])
                candidate, slope = _candidate(content[c], positive)
                g = carried[c] + grad[c]
                grad_share = g * (candidate - previous[c]) * (update * keep)
                grad_forget[c] = -grad_share * f_closed
                grad_write[c] = grad_share * i_closed
                grad_content[c] = g * (update * slope)
                carried[c] = g * keep
            if begins:
                carried[:] = 0.0
        grad_state[row, first:last] = carried


def forward(name: str, projection: Tensor, state: Tensor, starts: Tensor | None, positive: bool) -> Tensor:
    """Every state h [batch, time, size]; see `minrnn.fused`."""
    h = torch.empty(*projection.shape[:2], state.shape[1])
    kernel = {"min_gru": _min_gru_forward, "min_lstm": _min_lstm_forward}[name]
    kernel(_array(projection), _array(state), _flags(starts), positive, h.numpy())
    return h


def backward(
    name: str, projection: Tensor, state: Tensor, starts: Tensor | None, positive: bool, h: Tensor, grad_h: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of projection and state; see `minrnn.fused`."""
    grad_projection = torch.empty(projection.shape)
    grad_state = torch.empty(state.shape)
    kernel = {"min_gru": _min_gru_backward, "min_lstm": _min_lstm_backward}[name]
    given = (_array(projection), _array(state), _flags(starts), positive, _array(h), _array(grad_h))
    kernel(*given, grad_projection.numpy(), grad_state.numpy())
    return grad_projection, grad_state


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().contiguous().numpy()


def _flags(starts: Tensor | None) -> NDArray[np.bool_]:
    return np.empty((0, 0), np.bool_) if starts is None else starts.contiguous().numpy()


def set_num_threads(num_threads: int) -> None:
    """Threads a kernel may use from now on; at most what numba started with."""
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
