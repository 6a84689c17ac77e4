"""Law 4, exact: every fast path against the plain loop in float64, forward and gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minrnn import scan

BATCH, SIZE = 2, 70  # more than one block of channels, and not a multiple of one
GATES: dict[str, tuple[int, Callable[..., Any]]] = {
    "min_gru": (2, scan.min_gru_gates),
    "min_lstm": (3, scan.min_lstm_gates),
}


def by_loop(name: str, projection: Tensor, state: Tensor | None, starts: Tensor | None, positive: bool) -> Tensor:
    decay, share, candidate = GATES[name][1](projection, positive)
    return scan.recurrence(decay, share * candidate, state, starts)


def by_doubling(name: str, projection: Tensor, state: Tensor | None, starts: Tensor | None, positive: bool) -> Tensor:
    decay, share, candidate = GATES[name][1](projection, positive)
    return scan.scan(decay, share * candidate, state, starts)


def fused(name: str, projection: Tensor, state: Tensor | None, starts: Tensor | None, positive: bool) -> Tensor:
    return {"min_gru": scan.min_gru, "min_lstm": scan.min_lstm}[name](projection, state, starts, positive)


def inputs(name: str, time: int, scale: float, bias: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    num_gates = GATES[name][0]
    projection = torch.randn(BATCH, time, num_gates * SIZE, generator=generator)
    projection[..., : (num_gates - 1) * SIZE] = projection[..., : (num_gates - 1) * SIZE] * scale + bias
    state, weights = (torch.randn(shape, generator=generator) for shape in ((BATCH, SIZE), (BATCH, time, SIZE)))
    return projection.clamp(-100, 100), state, torch.rand(BATCH, time, generator=generator) < 0.01, weights


def run(
    path: Callable[..., Tensor], name: str, positive: bool, given: tuple[Tensor, ...], dtype: torch.dtype
) -> list[Tensor]:
    """The states, and the gradients of a weighted sum of them with respect to projection and first state."""
    projection, state, starts, weights = given
    projection, state = projection.to(dtype, copy=True).requires_grad_(), state.to(dtype, copy=True).requires_grad_()
    h = path(name, projection, state, starts, positive)
    (h * weights).sum().backward()
    assert projection.grad is not None
    assert state.grad is not None
    return [h.detach(), projection.grad, state.grad]


def worst_error(path: Callable[..., Tensor], name: str, positive: bool, given: tuple[Tensor, ...]) -> float:
    """The largest error of states and gradients, each relative to the largest true value."""
    exact = run(by_loop, name, positive, given, torch.float64)
    found = run(path, name, positive, given, torch.float32)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(exact, found, strict=True))


# The plain path carries a float32 state and loses a digit where memory is long.
@pytest.mark.parametrize(("path", "limit"), [(fused, 2e-6), (by_doubling, 3e-5)], ids=["fused", "doubling"])
@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (100.0, 0.0), (1.0, -8.0)], ids=["open", "saturated", "slow"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("name", GATES)
def test_a_fast_path_agrees_with_the_plain_loop(
    name: str, positive: bool, scale: float, bias: float, path: Callable[..., Tensor], limit: float
) -> None:
    assert worst_error(path, name, positive, inputs(name, 300, scale, bias)) < limit


@pytest.mark.parametrize("name", GATES)
def test_the_fused_path_stays_exact_over_4096_steps_of_long_memory(name: str) -> None:
    assert worst_error(fused, name, False, inputs(name, 4096, 1.0, -8.0)) < 1e-5


def test_a_wrong_path_is_noticed() -> None:
    def state_forgotten(name: str, projection: Tensor, state: Tensor, starts: Tensor, positive: bool) -> Tensor:
        return fused(name, projection, state * 0, starts, positive)

    assert worst_error(state_forgotten, "min_gru", False, inputs("min_gru", 300, 1.0, 0.0)) > 1e-3


def test_both_gates_closed_share_the_state_without_a_division_of_zero_by_zero() -> None:
    projection = torch.full((1, 4, 3), -100.0)
    projection[..., 2] = 1.0
    h = scan.min_lstm(projection)
    torch.testing.assert_close(h[0, :, 0], torch.tensor([0.5, 0.75, 0.875, 0.9375]))


@pytest.mark.parametrize("name", GATES)
def test_nan_passes_through_the_fused_path(name: str) -> None:
    projection, state, _, _ = inputs(name, 5, 1.0, 0.0)
    projection[0, 2, 0] = float("nan")
    h = fused(name, projection, state, None, False)
    assert h[0, 2:, 0].isnan().all()
    assert not h[0, :2].isnan().any()
    assert not h[1].isnan().any()


def test_a_tensor_in_double_precision_takes_the_plain_path_and_keeps_its_precision() -> None:
    projection, state, starts, _ = inputs("min_gru", 50, 1.0, 0.0)
    found = scan.min_gru(projection.double(), state.double(), starts)
    torch.testing.assert_close(found, by_loop("min_gru", projection.double(), state.double(), starts, False))


def test_without_numba_the_plain_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs("min_lstm", 50, 1.0, 0.0)
    expected = fused("min_lstm", *given[:3], True)
    monkeypatch.setattr(scan, "_numba_kernels", lambda: None)
    torch.testing.assert_close(fused("min_lstm", *given[:3], True), expected, rtol=1e-5, atol=1e-6)
