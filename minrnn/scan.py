"""The recurrences of the minimal RNNs: h_t = a_t * h_{t-1} + b_t, with their gates (Feng et al. 2024, section 3).

`min_gru` and `min_lstm` are the public functions. They choose the fused CPU kernel where it applies and the
plain-torch scan everywhere else; `recurrence` is the slow, obvious loop that both are tested against.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor


def min_gru(
    projection: Tensor, state: Tensor | None = None, starts: Tensor | None = None, positive: bool = False
) -> Tensor:
    """Every state h [batch, time, size] of a minGRU. Feng et al. 2024, section 3.1.

    projection [batch, time, 2 * size]: update gate and candidate before their nonlinearities. state [batch, size]:
    h before the first step, None for zeros. starts [batch, time]: True forgets the state before that step.
    positive: the candidate goes through g, as in the paper's log-space form.
    """
    kernel = _cpu_kernel(projection)
    if kernel is not None:
        return _fused(kernel.min_gru_forward, kernel.min_gru_backward, 2, projection, state, starts, positive)
    decay, share, candidate = min_gru_gates(projection, positive)
    return scan(decay, share * candidate, state, starts)


def min_lstm(
    projection: Tensor, state: Tensor | None = None, starts: Tensor | None = None, positive: bool = False
) -> Tensor:
    """Every state h [batch, time, size] of a minLSTM. Feng et al. 2024, section 3.2.

    projection [batch, time, 3 * size]: forget gate, input gate and candidate before their nonlinearities; the rest
    as in `min_gru`.
    """
    kernel = _cpu_kernel(projection)
    if kernel is not None:
        return _fused(kernel.min_lstm_forward, kernel.min_lstm_backward, 3, projection, state, starts, positive)
    decay, share, candidate = min_lstm_gates(projection, positive)
    return scan(decay, share * candidate, state, starts)


def min_gru_gates(projection: Tensor, positive: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What is kept of the state, the candidate's share in the next one, and the candidate."""
    gate, content = projection.chunk(2, dim=-1)
    return torch.sigmoid(-gate), torch.sigmoid(gate), to_candidate(content, positive)


def min_lstm_gates(projection: Tensor, positive: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `min_gru_gates`. f / (f + i) is taken as sigmoid(log f - log i), which never is 0 / 0."""
    forget, write, content = projection.chunk(3, dim=-1)
    difference = F.logsigmoid(forget) - F.logsigmoid(write)
    return torch.sigmoid(difference), torch.sigmoid(-difference), to_candidate(content, positive)


def to_candidate(content: Tensor, positive: bool) -> Tensor:
    """The candidate state: linear, or g(x) = x + 0.5 for x >= 0 and sigmoid(x) below (Feng et al. 2024, app. B)."""
    return torch.where(content >= 0, content + 0.5, torch.sigmoid(content)) if positive else content


def recurrence(a: Tensor, b: Tensor, state: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t by a plain loop: the oracle. a, b and the result [batch, time, size]."""
    h = torch.zeros_like(b[:, 0]) if state is None else state
    states = []
    for t in range(b.shape[1]):
        if starts is not None:
            h = h * ~starts[:, t, None]
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


def scan(a: Tensor, b: Tensor, state: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
    """The same by doubling: log2(time) whole-tensor steps in linear space (Hillis and Steele 1986). Any device."""
    if starts is not None:
        a = a.masked_fill(starts[..., None], 0.0)
    if state is not None:
        b = torch.cat([b[:, :1] + a[:, :1] * state[:, None], b[:, 1:]], dim=1)
    shift = 1
    while shift < b.shape[1]:
        b = torch.cat([b[:, :shift], b[:, shift:] + a[:, shift:] * b[:, :-shift]], dim=1)
        a = torch.cat([a[:, :shift], a[:, shift:] * a[:, :-shift]], dim=1)
        shift *= 2
    return b


def set_num_threads(num_threads: int) -> None:
    """CPU threads that torch and the fused kernels use from now on."""
    torch.set_num_threads(num_threads)
    kernels = _numba_kernels()
    if kernels is not None:
        kernels.set_num_threads(num_threads)


@cache
def _numba_kernels() -> ModuleType | None:
    try:
        from minrnn.kernels import cpu
    except ImportError:
        return None
    return cpu


def _cpu_kernel(projection: Tensor) -> ModuleType | None:
    fits = projection.device.type == "cpu" and projection.dtype == torch.float32 and projection.shape[1] > 0
    return _numba_kernels() if fits and not torch.compiler.is_compiling() else None


def _fused(
    forward: Callable[..., None],
    backward: Callable[..., None],
    num_gates: int,
    projection: Tensor,
    state: Tensor | None,
    starts: Tensor | None,
    positive: bool,
) -> Tensor:
    if state is None:
        state = projection.new_zeros(projection.shape[0], projection.shape[2] // num_gates)
    if starts is None:
        starts = torch.empty(0, 0, dtype=torch.bool)
    h: Tensor = _FusedScan.apply(projection.contiguous(), state.contiguous(), starts, positive, forward, backward)
    return h


class _FusedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, projection, state, starts, positive, forward, backward):  # type: ignore[no-untyped-def]
        h = torch.empty(*projection.shape[:2], state.shape[-1])
        forward(projection.detach().numpy(), state.detach().numpy(), starts.numpy(), positive, h.numpy())
        ctx.save_for_backward(projection, state, starts, h)
        ctx.positive, ctx.backward_kernel = positive, backward
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_h):  # type: ignore[no-untyped-def]
        projection, state, starts, h = (tensor.detach() for tensor in ctx.saved_tensors)
        grad_projection, grad_state = torch.empty_like(projection), torch.empty_like(state)
        ctx.backward_kernel(
            *(tensor.numpy() for tensor in (projection, state, starts)),
            ctx.positive,
            *(tensor.numpy() for tensor in (h, grad_h.contiguous(), grad_projection, grad_state)),
        )
        return grad_projection, grad_state, None, None, None, None
