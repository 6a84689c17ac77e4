"""One step of a stack of minimal RNN blocks, from raw features to the output of a last linear layer, in one call.

Acting is one such step for a handful of rows. Done as separate tensor operations it is mostly their overhead; here it
is what the weights cost to read once. Weights come as one flat float32 array, in the order in which they are used
(`minrnn.stepping.FusedStep` packs them). A linear layer of it is [columns / 64, inputs, 64] and a bias [columns]:
columns are padded to a multiple of 64 and inputs to a multiple of 8, so that the inner loops have fixed length and
strides and become straight SIMD code. Everything is float32 except the states, which are carried in float64.
"""

# mypy: disable-error-code="no-untyped-def"
from typing import Any

import numpy as np
from numba import njit

from minrnn.kernels import simd
from minrnn.kernels.simd import F32, FAST, INLINE

LANE = 64  # columns a linear layer computes together
DEPTH = 8  # inputs it adds up at once
_STEP: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": FAST, "error_model": "numpy"}
# Parts are never functions of their own in machine code: compiled apart they would be rounded otherwise than inside the
# step, and a process that compiles and one that finds the code in the cache would act differently in the last bit.
_PART: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "forceinline": True}


@njit(**_STEP)
def step(raw, center, scale, sizes, weights, states, features, x, normed, wide, mixed, y):
    """Writes y [rows, columns] and advances states [num_layers, rows, state_size].

    raw [rows, num_features] float64 goes in as (raw - center) / scale. sizes: hidden_size, state_size, inner_size of
    the MLP, num_gates, positive. features, x, normed, wide, mixed: work space, zero where it is padding.
    """
    hidden_size, state_size, inner_size, num_gates, positive = sizes
    rows, num_features = raw.shape
    for r in range(rows):
        for j in range(num_features):
            features[r, j] = (raw[r, j] - center[j]) / scale[j]
    at = _linear(features, weights, 0, num_features, hidden_size, x)
    for layer in range(states.shape[0]):
        at = _layer_norm(x, weights, at, hidden_size, normed)
        at = _linear(normed, weights, at, hidden_size, num_gates * state_size, wide)
        if num_gates == 2:
            _advance_min_gru(wide, states[layer], state_size, positive > 0, mixed)
        else:
            _advance_min_lstm(wide, states[layer], state_size, positive > 0, mixed)
        at = _linear(mixed, weights, at, state_size, hidden_size, normed)
        _add(x, normed, hidden_size)
        at = _layer_norm(x, weights, at, hidden_size, normed)
        at = _linear(normed, weights, at, hidden_size, inner_size, wide)
        _gelu(wide, inner_size)
        at = _linear(wide, weights, at, inner_size, hidden_size, normed)
        _add(x, normed, hidden_size)
    at = _layer_norm(x, weights, at, hidden_size, normed)
    _linear(normed, weights, at, hidden_size, y.shape[1], y)


@njit(**INLINE)
def _padded(size, multiple):
    return (size + multiple - 1) // multiple * multiple


@njit(**_PART)
def _linear(x, weights, at, num_inputs, num_columns, y):
    """y = x W + b with the layer that begins at weights[at]; gives where the next one begins."""
    rows = x.shape[0]
    num_inputs, num_columns = _padded(num_inputs, DEPTH), _padded(num_columns, LANE)
    bias = at + num_inputs * num_columns
    sums = np.empty(4 * LANE, np.float32)
    for column in range(0, num_columns, LANE):
        block = weights[at + column * num_inputs : at + (column + LANE) * num_inputs]
        begin = weights[bias + column : bias + column + LANE]
        if rows == 1:
            _one_row(x[0], block, begin, num_inputs, y[0, column : column + LANE])
        else:
            for row in range(0, rows, 4):
                _four_rows(x, row, block, begin, num_inputs, sums)
                for r in range(min(4, rows - row)):
                    out = y[row + r, column : column + LANE]
                    for j in range(LANE):
                        out[j] = sums[r * LANE + j]
    return bias + num_columns


@njit(**INLINE)
def _one_row(x, block, bias, num_inputs, y):
    for j in range(LANE):
        y[j] = bias[j]
    for k in range(0, num_inputs, 8):
        x0, x1, x2, x3, x4, x5, x6, x7 = x[k], x[k + 1], x[k + 2], x[k + 3], x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        w = block[k * LANE : (k + 8) * LANE]
        for j in range(LANE):
            y[j] += (x0 * w[j] + x1 * w[LANE + j] + x2 * w[2 * LANE + j] + x3 * w[3 * LANE + j]) + (
                x4 * w[4 * LANE + j] + x5 * w[5 * LANE + j] + x6 * w[6 * LANE + j] + x7 * w[7 * LANE + j]
            )


@njit(**INLINE)
def _four_rows(x, row, block, bias, num_inputs, sums):
    """Four rows share each weight that is read; past the last row it is computed again and not used."""
    last = x.shape[0] - 1
    a, b, c, d = x[row], x[min(row + 1, last)], x[min(row + 2, last)], x[min(row + 3, last)]
    for j in range(LANE):
        sums[j] = sums[LANE + j] = sums[2 * LANE + j] = sums[3 * LANE + j] = bias[j]
    for k in range(0, num_inputs, 4):
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
        c0, c1, c2, c3 = c[k], c[k + 1], c[k + 2], c[k + 3]
        d0, d1, d2, d3 = d[k], d[k + 1], d[k + 2], d[k + 3]
        w = block[k * LANE : (k + 4) * LANE]
        for j in range(LANE):
            w0, w1, w2, w3 = w[j], w[LANE + j], w[2 * LANE + j], w[3 * LANE + j]
            sums[j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
            sums[LANE + j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
            sums[2 * LANE + j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
            sums[3 * LANE + j] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3


@njit(**_PART)
def _layer_norm(x, weights, at, size, y):
    """As torch.nn.LayerNorm with its default eps; gives where the next layer begins."""
    gain, shift = weights[at : at + size], weights[at + size : at + 2 * size]
    for r in range(x.shape[0]):
        row, out = x[r, :size], y[r, :size]
        mean = row.sum() / F32(size)
        variance = F32(0.0)
        for j in range(size):
            variance += (row[j] - mean) * (row[j] - mean)
        inverse = F32(1.0) / np.sqrt(variance / F32(size) + F32(1e-5))
        for j in range(size):
            out[j] = (row[j] - mean) * inverse * gain[j] + shift[j]
    return at + 2 * size


@njit(**_PART)
def _add(x, y, size):
    for r in range(x.shape[0]):
        for j in range(size):
            x[r, j] += y[r, j]


@njit(**_PART)
def _gelu(x, size):
    for r in range(x.shape[0]):
        for j in range(size):
            x[r, j], _ = simd.gelu(x[r, j])


@njit(**_PART)
def _advance_min_gru(projection, state, size, positive, mixed):
    for r in range(projection.shape[0]):
        gate, content = projection[r, :size], projection[r, size : 2 * size]
        carried, out = state[r], mixed[r, :size]
        for c in range(size):
            update, _ = simd.sigmoids(gate[c])
            candidate, _ = simd.candidate(content[c], positive)
            carried[c] += update * (candidate - carried[c])
            out[c] = carried[c]


@njit(**_PART)
def _advance_min_lstm(projection, state, size, positive, mixed):
    for r in range(projection.shape[0]):
        forget, write = projection[r, :size], projection[r, size : 2 * size]
        content = projection[r, 2 * size : 3 * size]
        carried, out = state[r], mixed[r, :size]
        for c in range(size):
            _, update, _, _ = simd.shares(forget[c], write[c])
            candidate, _ = simd.candidate(content[c], positive)
            carried[c] += update * (candidate - carried[c])
            out[c] = carried[c]
