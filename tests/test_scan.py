"""Law 4, exact: every fast path against the plain loop in float64, forward and gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minrnn import fused, scan

BATCH, SIZE = 2, 70  # more than one block of channels, and not a multiple of one
GATES: dict[str, tuple[int, Callable[..., Any]]] = {
    "min_gru": (2, scan.min_gru_gates),
    "min_lstm": (3, scan.min_lstm_gates),
}


def by_loop(name: str, projection: Tensor, state: Tensor | None, starts: Tensor | None, positive: bool) -> Tensor:
    share, candidate = GATES[name][1](projection, positive)
    return scan.recurrence(1 - share, share * candidate, state, starts)


def by_path(path: str) -> Callable[..., Tensor]:
    def scanned(name: str, projection: Tensor, state: Tensor | None, starts: Tensor | None, positive: bool) -> Tensor:
        function = {"min_gru": scan.min_gru, "min_lstm": scan.min_lstm}[name]
        return function(projection, state, starts, positive, path)

    return scanned


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


PATHS = ["cpu", "plain"]
SHAPES = {"open": (1.0, 0.0), "saturated": (100.0, 0.0), "slow": (1.0, -8.0)}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gates", SHAPES)
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("name", GATES)
def test_a_path_agrees_with_the_plain_loop(name: str, positive: bool, gates: str, path: str) -> None:
    assert worst_error(by_path(path), name, positive, inputs(name, 300, *SHAPES[gates])) < 5e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gates", SHAPES)
@pytest.mark.parametrize("name", GATES)
def test_a_path_stays_exact_over_4096_steps(name: str, gates: str, path: str) -> None:
    assert worst_error(by_path(path), name, False, inputs(name, 4096, *SHAPES[gates])) < 1e-5


@pytest.mark.parametrize("name", GATES)
def test_one_step_after_another_stays_exact_over_4096_steps(name: str) -> None:
    projection, state, _, _ = inputs(name, 4096, *SHAPES["slow"])
    exact = by_loop(name, projection.double(), state.double(), None, False)
    for t in range(projection.shape[1]):
        share, candidate = GATES[name][1](projection[:, t], False)
        state = torch.lerp(state, candidate, share)
    assert (state - exact[:, -1]).abs().max() / exact.abs().max() < 1e-5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("time", [1, 2, 3, 5, 16, 17])
def test_any_length_will_do(time: int, path: str) -> None:
    assert worst_error(by_path(path), "min_gru", False, inputs("min_gru", time, 1.0, 0.0)) < 1e-6


@pytest.mark.parametrize("name", GATES)
def test_the_gradient_of_a_gradient_is_that_of_the_plain_path(name: str) -> None:
    projection, state, starts, weights = inputs(name, 12, 1.0, 0.0)

    def second(path: str) -> Tensor:
        x = projection.clone().requires_grad_()
        h = by_path(path)(name, x, state, starts, True)
        (first,) = torch.autograd.grad((h * weights).sum(), x, create_graph=True)
        (found,) = torch.autograd.grad(first.square().sum(), x)
        return found

    torch.testing.assert_close(second("cpu"), second("plain"), rtol=1e-4, atol=1e-6)


def test_a_path_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="path must be one of cpu, cuda, plain; got 'fast'"):
        scan.min_gru(torch.zeros(1, 2, 2), path="fast")


def test_a_wrong_path_is_noticed() -> None:
    def state_forgotten(name: str, projection: Tensor, state: Tensor, starts: Tensor, positive: bool) -> Tensor:
        return by_path("cpu")(name, projection, state * 0, starts, positive)

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
    h = by_path("cpu")(name, projection, state, None, False)
    assert h[0, 2:, 0].isnan().all()
    assert not h[0, :2].isnan().any()
    assert not h[1].isnan().any()


def test_a_tensor_in_double_precision_takes_the_plain_path_and_keeps_its_precision() -> None:
    projection, state, starts, _ = inputs("min_gru", 50, 1.0, 0.0)
    found = scan.min_gru(projection.double(), state.double(), starts)
    torch.testing.assert_close(found, by_loop("min_gru", projection.double(), state.double(), starts, False))


def test_without_numba_the_plain_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs("min_lstm", 50, 1.0, 0.0)
    expected = scan.min_lstm(*given[:3], True)
    monkeypatch.setattr(fused, "_kernel", lambda _: None)
    torch.testing.assert_close(scan.min_lstm(*given[:3], True), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ImportError, match="path='cpu' needs numba"):
        scan.min_lstm(*given[:3], True, path="cpu")
