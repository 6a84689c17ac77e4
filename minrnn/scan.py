"""The recurrences of the minimal RNNs: h_t = a_t * h_{t-1} + b_t, with their gates (Feng et al. 2024, section 3).

In both, a_t = 1 - u_t and b_t = u_t * c_t: the new state is the old one moved by a share u_t towards a candidate c_t,
h_t = h_{t-1} + u_t (c_t - h_{t-1}). Computed so, a long memory (u near 0) is as exact as a short one.

`min_gru` and `min_lstm` are the public functions. They choose a fused kernel where there is one and the plain-torch
scan everywhere else; `recurrence` is the slow, obvious loop that all of them are tested against.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn import fused


def min_gru(
    projection: Tensor,
    state: Tensor | None = None,
    starts: Tensor | None = None,
    positive: bool = False,
    path: str | None = None,
) -> Tensor:
    """Every state h [batch, time, size] of a minGRU. Feng et al. 2024, section 3.1.

    projection [batch, time, 2 * size]: update gate and candidate before their nonlinearities. state [batch, size]:
    h before the first step, None for zeros. starts [batch, time]: True forgets the state before that step.
    positive: the candidate goes through g, as in the paper's log-space form. path: cpu, cuda (both fused) or plain;
    None for the fastest that fits.
    """
    return _run("min_gru", min_gru_gates, 2, projection, state, starts, positive, path)


def min_lstm(
    projection: Tensor,
    state: Tensor | None = None,
    starts: Tensor | None = None,
    positive: bool = False,
    path: str | None = None,
) -> Tensor:
    """Every state h [batch, time, size] of a minLSTM. Feng et al. 2024, section 3.2.

    projection [batch, time, 3 * size]: forget gate, input gate and candidate before their nonlinearities; the rest
    as in `min_gru`.
    """
    return _run("min_lstm", min_lstm_gates, 3, projection, state, starts, positive, path)


def _run(
    name: str,
    gates: Callable[[Tensor, bool], tuple[Tensor, Tensor]],
    num_gates: int,
    projection: Tensor,
    state: Tensor | None,
    starts: Tensor | None,
    positive: bool,
    path: str | None,
) -> Tensor:
    def plain(projection: Tensor, state: Tensor, starts: Tensor | None) -> Tensor:
        return scan(*gates(projection, positive), state, starts)

    if state is None:
        state = projection.new_zeros(projection.shape[0], projection.shape[2] // num_gates)
    kernel = fused.choose_kernel(projection, path)
    if kernel is None:
        return plain(projection, state, starts)
    return fused.run(kernel, name, projection, state, starts, positive, plain)


def min_gru_gates(projection: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """The candidate's share in the next state, and the candidate."""
    gate, content = projection.chunk(2, dim=-1)
    return torch.sigmoid(gate), to_candidate(content, positive)


def min_lstm_gates(projection: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """As `min_gru_gates`. i / (f + i) is taken as sigmoid(log i - log f), which never is 0 / 0."""
    forget, write, content = projection.chunk(3, dim=-1)
    return torch.sigmoid(F.logsigmoid(write) - F.logsigmoid(forget)), to_candidate(content, positive)


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


def scan(share: Tensor, candidate: Tensor, state: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
    """h_t = h_{t-1} + share_t (candidate_t - h_{t-1}) on any device, in about 3 sqrt(time) whole-tensor steps.

    Two levels: all chunks of sqrt(time) steps at once, each from a state of zero, noting how much of what came before
    is forgotten by each step; then the state is carried from chunk to chunk, and what is left of it added.
    """
    time = share.shape[1]
    if time == 0:
        return candidate
    length = math.isqrt(time - 1) + 1
    padding = -time % length
    shares, candidates = (_in_chunks(x, length, padding) for x in (share, candidate))
    fresh = None if starts is None else _in_chunks(starts[..., None].to(share.dtype), length, padding)
    local, forgotten = _within_chunks(shares, candidates, fresh)
    carried = torch.zeros_like(candidate[:, 0]) if state is None else state
    before = []
    for end, lost in zip(local[:, :, -1].unbind(1), forgotten[:, :, -1].unbind(1), strict=True):
        before.append(carried)
        carried = carried + (end - lost * carried)
    carried = torch.stack(before, dim=1)[:, :, None]
    return (carried + (local - forgotten * carried)).flatten(1, 2)[:, :time]


def _in_chunks(x: Tensor, length: int, padding: int) -> Tensor:
    """[batch, chunks, length, size]; the padding is zeros, which as shares change nothing."""
    return F.pad(x, (0, 0, 0, padding)).unflatten(1, (-1, length))


def _within_chunks(shares: Tensor, candidates: Tensor, fresh: Tensor | None) -> tuple[Tensor, Tensor]:
    """States from zero, and the part of the state before the chunk that is forgotten: both as `shares`."""
    local = forgotten = torch.zeros_like(shares[:, :, 0])
    states, losses = [], []
    for t in range(shares.shape[2]):
        share = shares[:, :, t]
        if fresh is not None:
            local = local - fresh[:, :, t] * local
            forgotten = torch.maximum(forgotten, fresh[:, :, t])
        local = local + share * (candidates[:, :, t] - local)
        forgotten = forgotten + share * (1 - forgotten)
        states.append(local)
        losses.append(forgotten)
    return torch.stack(states, dim=2), torch.stack(losses, dim=2)


def set_num_threads(num_threads: int) -> None:
    """CPU threads that torch and the fused kernels use from now on."""
    torch.set_num_threads(num_threads)
    fused.set_num_threads(num_threads)
