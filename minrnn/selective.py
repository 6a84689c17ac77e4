"""The selective scan of Mamba (Gu and Dao 2023, section 3): a state space that changes with what it reads.

For every channel e and each of its states n, by the zero-order hold of the paper's equation 4,

    h_t = exp(-dt_t decay_n) h_{t-1} + (1 - exp(-dt_t decay_n)) / decay_n * write_tn x_t,    y_t = sum_n read_tn h_t

which is the recurrence of `minrnn.scan`: h moves by the share 1 - exp(-dt decay) towards write x / decay. A fused
kernel keeps h in the CPU's caches; the plain path, everywhere else, holds all of it, [batch, time, states, channels].

Shapes: x and dt [batch, time, channels]; decay [states, channels], positive; write and read [batch, time, states];
state [batch, states, channels], None for zeros; starts [batch, time].
"""

from typing import Any

import torch
from torch import Tensor

from minrnn import scan
from minrnn.fused import choose_kernel


def selective_scan(
    x: Tensor,
    dt: Tensor,
    decay: Tensor,
    write: Tensor,
    read: Tensor,
    state: Tensor | None = None,
    starts: Tensor | None = None,
    path: str | None = None,
) -> tuple[Tensor, Tensor]:
    """y [batch, time, channels] and the state after the last step. path: cpu (fused) or plain; None for the faster."""
    if state is None:
        state = x.new_zeros(len(x), *decay.shape)
    kernel = choose_kernel(x, path, "selective_")
    if kernel is None:
        return _plain(x, dt, decay, write, read, state, starts)
    y, last = _FusedSelectiveScan.apply(x, dt, decay, write, read, state, starts, kernel)
    return y, last


def selective_step(
    x: Tensor, dt: Tensor, decay: Tensor, write: Tensor, read: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step: x and dt [batch, channels], write and read [batch, states]."""
    share, candidate = _share(dt, decay), _candidate(x, decay, write)
    h = share * candidate if state is None else torch.lerp(state, candidate, share)
    return (read[..., None] * h).sum(-2), h


def _share(dt: Tensor, decay: Tensor) -> Tensor:
    return -torch.expm1(-dt[..., None, :] * decay)


def _candidate(x: Tensor, decay: Tensor, write: Tensor) -> Tensor:
    return write[..., None] * x[..., None, :] / decay


def _plain(
    x: Tensor, dt: Tensor, decay: Tensor, write: Tensor, read: Tensor, state: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    share, candidate = _share(dt, decay).flatten(2), _candidate(x, decay, write).flatten(2)
    h = scan.scan(share, candidate, state.flatten(1), starts).unflatten(2, tuple(decay.shape))
    return (read[..., None] * h).sum(-2), h[:, -1]


class _FusedSelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, decay, write, read, state, starts, kernel):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, dt, decay, write, read, state, starts)
        ctx.kernel = kernel
        return kernel.forward(x, dt, decay, write, read, state, starts)

    @staticmethod
    def backward(ctx, grad_y, grad_last):  # type: ignore[no-untyped-def]
        *given, starts = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient will be differentiated itself
            return *_differentiable_gradients(given, starts, (grad_y, grad_last)), None, None
        return *ctx.kernel.backward(*given, starts, grad_y, grad_last), None, None


def _differentiable_gradients(
    given: list[Tensor], starts: Tensor | None, grads: tuple[Tensor, Tensor]
) -> tuple[Tensor | None, ...]:
    wanted = [tensor for tensor in given if tensor.requires_grad]
    outputs: Any = _plain(*given, starts)  # type: ignore[call-arg, arg-type]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in given)
