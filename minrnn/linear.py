"""torch.nn.Linear on the faster of the two matrix libraries that torch carries.

torch multiplies float32 matrices on a CPU with MKL, which keeps its AVX-512 code to Intel's processors; on AMD's,
oneDNN does the same products in the same precision in less than half the time (benchmarks/train_step.py prints both).
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A torch.nn.Linear in all but speed."""

    def forward(self, x: Tensor) -> Tensor:
        if not _fits(x) or not prefers_onednn():
            return F.linear(x, self.weight, self.bias)
        y: Tensor = _OneDNNLinear.apply(x.flatten(0, -2).contiguous(), self.weight, self.bias)
        return y.view(*x.shape[:-1], -1)


def _fits(x: Tensor) -> bool:
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim > 1 and x.numel() > 0
    return is_plain and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias by oneDNN; x [rows, inputs], weight [outputs, inputs]."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN is there and this is a processor on which MKL is slow."""
    if platform.machine() not in ("x86_64", "AMD64") or not _made_by_amd():
        return False
    try:  # not a public function of torch: any other answer, and it is not used
        x, weight = torch.ones(2, 3), torch.ones(4, 3)
        return bool((product(x, weight, torch.ones(4)) == 4).all())
    except (AttributeError, RuntimeError, TypeError):
        return False


def _made_by_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "AuthenticAMD" in platform.processor()


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad_y):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        grad_y = grad_y.contiguous()  # strided, it would meet oneDNN's slowest code
        # A gradient that will be differentiated itself is made of operations that autograd knows.
        multiply: Any = torch.nn.functional.linear if torch.is_grad_enabled() else product
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = multiply(grad_y, weight.t()) if needs_x else None
        if not needs_weight:
            grad_weight = None
        elif weight.shape[0] < weight.shape[1]:  # the first factor is copied: let it be the smaller
            grad_weight = multiply(grad_y.t(), x.t())
        else:
            grad_weight = multiply(x.t(), grad_y.t()).t()
        return grad_x, grad_weight, grad_y.sum(0) if ctx.has_bias and needs_bias else None
