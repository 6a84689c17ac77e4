"""Dropout of a residual branch, added in one pass: torch draws its random numbers one at a time on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn import fused


class DroppedSum(nn.Module):
    """x + dropout(y) (Srivastava et al. 2014); x + y in evaluation."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x + y
        kernel = fused.choose_kernel(y, None) if y.device.type == "cpu" else None
        if kernel is None or x.dtype != y.dtype or x.shape != y.shape:
            return x + F.dropout(y, self.probability)
        seed = int(torch.randint(2**32, ()))  # from torch's own generator: manual_seed repeats it
        total: Tensor = _DroppedSum.apply(x, y, kernel, self.probability, seed)
        return total


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, kernel, probability, seed):  # type: ignore[no-untyped-def]
        ctx.kernel, ctx.probability, ctx.seed = kernel, probability, seed
        return kernel.add_dropped(x, y, probability, seed)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():  # this gradient will be differentiated itself
            kept = ctx.kernel.add_dropped(None, torch.ones(grad.shape), ctx.probability, ctx.seed)
            return grad, grad * kept, None, None, None
        return grad, ctx.kernel.add_dropped(None, grad, ctx.probability, ctx.seed), None, None, None
