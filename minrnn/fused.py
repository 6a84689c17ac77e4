"""The fused kernels under autograd: which one fits a tensor, and what happens where none has a formula.

A kernel is a module of `minrnn.kernels` with `forward(name, projection, state, starts, positive) -> h` and
`backward(name, projection, state, starts, positive, h, grad_h) -> (grad_projection, grad_state)`, name being min_gru or
min_lstm and starts None where no step is one.
"""

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Plain = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# path: what its kernel is written in, and the types it takes
KERNELS: dict[str, tuple[str, tuple[torch.dtype, ...]]] = {
    "cpu": ("numba", (torch.float32,)),
    "cuda": ("triton", (torch.float32, torch.bfloat16, torch.float16)),
}


def choose_kernel(projection: Tensor, path: str | None, prefix: str = "") -> ModuleType | None:
    """The kernel of this path, None for plain torch. path None: the one of the tensor's device, if there is one.

    prefix: before the module's name, for other recurrences than those of the minimal RNNs.
    """
    if path is None:
        device, (_, dtypes) = projection.device.type, KERNELS.get(projection.device.type, ("", ()))
        fits = projection.dtype in dtypes and projection.numel() > 0 and not torch.compiler.is_compiling()
        return _kernel(prefix + device) if fits else None
    if path == "plain":
        return None
    if path not in KERNELS:
        raise ValueError(f"path must be one of {', '.join([*KERNELS, 'plain'])}; got {path!r}")
    kernel = _kernel(prefix + path)
    if kernel is None:
        raise ImportError(f"path={path!r} needs {KERNELS[path][0]}, which is not installed")
    return kernel


def run(
    kernel: ModuleType,
    name: str,
    projection: Tensor,
    state: Tensor,
    starts: Tensor | None,
    positive: bool,
    plain: Plain,
) -> Tensor:
    """Every state h [batch, time, size]; its gradient is the kernel's, the gradient of that is plain torch's."""
    h: Tensor = _FusedScan.apply(projection, state, starts, kernel, name, positive, plain)
    return h


class _FusedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, projection, state, starts, kernel, name, positive, plain):  # type: ignore[no-untyped-def]
        h = kernel.forward(name, projection.detach(), state.detach(), starts, positive)
        ctx.save_for_backward(projection, state, starts, h)
        ctx.kernel, ctx.name, ctx.positive, ctx.plain = kernel, name, positive, plain
        return h

    @staticmethod
    def backward(ctx, grad_h):  # type: ignore[no-untyped-def]
        projection, state, starts, h = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient will be differentiated itself
            gradients: Any = _differentiable_gradients(ctx.plain, projection, state, starts, grad_h)
        else:
            gradients = ctx.kernel.backward(ctx.name, projection, state, starts, ctx.positive, h, grad_h)
        return *gradients, None, None, None, None, None


def _differentiable_gradients(
    plain: Plain, projection: Tensor, state: Tensor, starts: Tensor | None, grad_h: Tensor
) -> tuple[Tensor | None, ...]:
    wanted = [tensor for tensor in (projection, state) if tensor.requires_grad]
    found = iter(torch.autograd.grad(plain(projection, state, starts), wanted, grad_h, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in (projection, state))


def set_num_threads(num_threads: int) -> None:
    kernel = _kernel("cpu")
    if kernel is not None:
        kernel.set_num_threads(num_threads)


@cache
def _kernel(path: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"minrnn.kernels.{path}")
    except ImportError:
        return None
