"""The parts of a block that have a faster form on the CPU are what torch's own are, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn import linear
from minrnn.activation import GELU
from minrnn.dropout import DroppedSum


def with_gradients(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value, its gradient, and the gradient of that one's sum of squares."""
    x = x.clone().requires_grad_()
    y = function(x)
    (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    x.grad = None
    function(x).sin().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, first.detach())
    return y.detach(), first.detach(), second


def test_gelu_is_torchs() -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, -1e-30, 1e4])]).reshape(4, -1)
    for found, expected in zip(with_gradients(GELU(), x), with_gradients(F.gelu, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    assert GELU()(torch.tensor([float("nan")])).isnan()
    torch.testing.assert_close(GELU()(x.t()), F.gelu(x.t()), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 7), (130, 33)])
@pytest.mark.parametrize("leading", [(5,), (2, 9)])
def test_linear_is_torchs(
    leading: tuple[int, ...], inputs: int, outputs: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x = linear.Linear(inputs, outputs, bias=bias), torch.randn(*leading, inputs)
    plain = nn.Linear(inputs, outputs, bias=bias).double()
    plain.load_state_dict(layer.state_dict())
    expected = with_gradients(plain, x.double())
    plain_weight = torch.autograd.grad(plain(x.double()).sin().sum(), plain.weight)[0]
    for prefers in (True, False):
        monkeypatch.setattr(linear, "prefers_onednn", lambda prefers=prefers: prefers)
        for found, exact in zip(with_gradients(layer, x), expected, strict=True):
            torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
        weight = torch.autograd.grad(layer(x).sin().sum(), layer.weight)[0]
        torch.testing.assert_close(weight.double(), plain_weight, rtol=1e-4, atol=1e-5)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    y = torch.ones(1000, 300)
    total = DroppedSum(0.3)(torch.full_like(y, 5.0), y)
    values, counts = total.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([5.0, 5 + 1 / 0.7]))
    assert counts[0] / y.numel() == pytest.approx(0.3, abs=0.005)
    assert total.mean() == pytest.approx(6.0, abs=0.01)
    dropped = (total == 5.0).float()
    for at_once in (dropped.mean(0), dropped.mean(1)):  # no row or column is favoured
        assert (at_once - 0.3).abs().max() < 0.13
    neighbours = (dropped[:, 1:] * dropped[:, :-1]).mean()
    assert neighbours == pytest.approx(0.09, abs=0.005)


def test_dropout_repeats_with_torchs_seed_and_changes_without() -> None:
    add, x = DroppedSum(0.5), torch.randn(40, 50)

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return add(x, x)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert not torch.equal(add(x, x), add(x, x))
    assert torch.equal(add.eval()(x, x), x + x)


def test_the_gradient_passes_where_the_branch_did() -> None:
    add, x = DroppedSum(0.5), torch.zeros(30, 40)
    y = torch.ones(30, 40, requires_grad=True)
    total = add(x, y)
    (first,) = torch.autograd.grad(total.square().sum(), y, create_graph=True)
    torch.testing.assert_close(first, 4 * total.detach())
    (second,) = torch.autograd.grad(first.sum(), y)
    torch.testing.assert_close(second, 4 * total.detach())
