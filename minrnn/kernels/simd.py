"""What the CPU kernels compute element by element, without a call or a branch on data, so that it becomes SIMD code."""

# mypy: disable-error-code="no-untyped-def"
from typing import Any

import numpy as np
from numba import njit

F32 = np.float32
# NaN and infinity must pass through: not all of `fastmath=True`.
FAST = {"contract", "reassoc", "nsz", "arcp"}
INLINE: dict[str, Any] = {"inline": "always", "fastmath": FAST, "error_model": "numpy"}


@njit(**INLINE)
def exp(x):
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


@njit(**INLINE)
def sigmoids(x):
    """sigmoid(x) and 1 - sigmoid(x), both to full relative precision."""
    e = exp(-abs(x))
    scale = F32(1.0) / (F32(1.0) + e)
    return (scale, e * scale) if x >= F32(0.0) else (e * scale, scale)


@njit(**INLINE)
def candidate(x, positive):
    """The candidate and its derivative: x itself, or g(x) of the paper's log-space form (appendix B.1)."""
    up, down = sigmoids(min(x, F32(0.0)))
    value = x + F32(0.5) if x >= F32(0.0) else up
    slope = F32(1.0) if x >= F32(0.0) else up * down
    return (value, slope) if positive else (x, F32(1.0))


@njit(**INLINE)
def shares(forget, write):
    """f / (f + i), i / (f + i), 1 - f and 1 - i for the gates f = sigmoid(forget), i = sigmoid(write).

    When both gates are nearly closed the quotient is taken after dividing by the larger one: never 0 / 0.
    """
    f_exp, i_exp = exp(-abs(forget)), exp(-abs(write))
    ratio = exp(-abs(forget - write))
    both_closed = forget < F32(0.0) and write < F32(0.0)
    f_open = F32(1.0) if forget >= F32(0.0) or (both_closed and forget >= write) else (ratio if both_closed else f_exp)
    i_open = F32(1.0) if write >= F32(0.0) or (both_closed and write > forget) else (ratio if both_closed else i_exp)
    f_weight, i_weight = f_open * (F32(1.0) + i_exp), i_open * (F32(1.0) + f_exp)
    scale = F32(1.0) / (f_weight + i_weight)
    f_closed = (f_exp if forget >= F32(0.0) else F32(1.0)) / (F32(1.0) + f_exp)
    i_closed = (i_exp if write >= F32(0.0) else F32(1.0)) / (F32(1.0) + i_exp)
    return f_weight * scale, i_weight * scale, f_closed, i_closed


@njit(**INLINE)
def gelu(x):
    """x Phi(x) and its derivative Phi(x) + x phi(x); erf to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    z = abs(x) * F32(0.70710678118654752)
    density = exp(-z * z)
    t = F32(1.0) / (F32(1.0) + F32(0.3275911) * z)
    tail = t * (
        F32(0.254829592)
        + t * (F32(-0.284496736) + t * (F32(1.421413741) + t * (F32(-1.453152027) + t * F32(1.061405429))))
    )
    tail *= F32(0.5) * density
    below = F32(1.0) - tail if x >= F32(0.0) else tail
    return x * below, below + x * density * F32(0.39894228040143268)


@njit(**INLINE)
def random_bits(index, seed):
    """32 bits that look random, a function of index and seed alone (the integer hash lowbias32, C. Wellons 2018)."""
    bits = np.uint32(index) ^ seed
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))
