"""Mixers against what their papers say, written out slowly: a loop over steps, a softmax over the past."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.aaren import Aaren
from minrnn.attention import Attention
from minrnn.mamba import Mamba
from minrnn.min_gru import MinGRU
from minrnn.min_lstm import MinLSTM
from minrnn.s4d import S4D
from minrnn.selective import selective_scan

BATCH, TIME, SIZE = 2, 19, 8


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(mixer: torch.nn.Module) -> Any:
    """The mixer in double precision with every parameter at random, whatever it begins as."""
    torch.manual_seed(0)
    mixer = mixer.double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def test_aaren_is_softmax_attention_of_a_learned_query() -> None:
    mixer = made(Aaren(SIZE, num_heads=2, expansion=1.5))
    x = inputs(BATCH, TIME, SIZE)
    scores, values = mixer.projection(x)[..., :2], mixer.projection(x)[..., 2:].unflatten(-1, (2, 6))
    attended = []
    for t in range(TIME):
        weights = scores[:, : t + 1].softmax(dim=1)  # the query of the paper, times its keys, is linear in the input
        attended.append(torch.einsum("bth,bthd->bhd", weights, values[:, : t + 1]).flatten(1))
    torch.testing.assert_close(mixer(x)[0], mixer.output(torch.stack(attended, dim=1)))


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_aaren_forgets_nothing_that_outweighs_what_follows(scale: float) -> None:
    """Scores so far apart that one step has all the weight, and a gradient that stays finite."""
    mixer = made(Aaren(SIZE, num_heads=1, expansion=1.0))
    x = (scale * inputs(BATCH, TIME, SIZE)).requires_grad_()
    y, (total, _) = mixer(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(total[:, 0], mixer.projection(x)[..., 0].logsumexp(1))


def test_s4d_is_its_recurrence() -> None:
    """h' = A h + x held over each time step, with A, C and the step as the paper has them."""
    mixer = made(S4D(SIZE, state_size=6))
    x = inputs(BATCH, TIME, SIZE)
    a = -mixer.log_damping.exp() + 1j * mixer.frequency
    dt, c = mixer.log_step.exp()[:, None], torch.view_as_complex(mixer.read)
    h, outputs = torch.zeros(BATCH, SIZE, 3, dtype=torch.complex128), []
    for t in range(TIME):
        h = torch.exp(dt * a) * h + (torch.exp(dt * a) - 1) / a * x[:, t, :, None]
        outputs.append(2 * (c * h).sum(-1).real + mixer.skip * x[:, t])
    expected = F.glu(mixer.output(F.gelu(torch.stack(outputs, dim=1))), dim=-1)
    y, state = mixer(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.view_as_complex(state), h)


def test_mamba_is_its_recurrence() -> None:
    """Gu and Dao 2023, algorithm 2 and equation 4, one step, channel and state after the other."""
    mixer = made(Mamba(SIZE, expansion=1.5, state_size=3, conv_width=4))
    x, channels = inputs(BATCH, TIME, SIZE), 12
    content, gate = mixer.projection(x).chunk(2, dim=-1)
    weight, padded = mixer.convolution.weight, F.pad(content, (0, 0, 3, 0))
    content = F.silu(mixer.convolution.bias + sum(weight[k] * padded[:, 3 - k : 3 - k + TIME] for k in range(4)))
    low, b, c = mixer.select(content).split([1, 3, 3], dim=-1)
    dt, a = F.softplus(mixer.time_step(low)), -mixer.log_decay.exp()
    outputs = torch.zeros(BATCH, TIME, channels, dtype=torch.float64)
    for row in range(BATCH):
        for channel in range(channels):
            h = [torch.zeros((), dtype=torch.float64)] * 3
            for t in range(TIME):
                for n in range(3):
                    z = dt[row, t, channel] * a[n, channel]
                    h[n] = z.exp() * h[n] + (z.exp() - 1) / a[n, channel] * b[row, t, n] * content[row, t, channel]
                outputs[row, t, channel] = sum(c[row, t, n] * h[n] for n in range(3))
    expected = mixer.output((outputs + mixer.skip * content) * F.silu(gate))
    torch.testing.assert_close(mixer(x)[0], expected)


@pytest.mark.parametrize("window", [1, 4, TIME, 1000])
def test_attention_in_a_window_is_attention_over_the_last_steps(window: int) -> None:
    mixer = made(Attention(SIZE, num_heads=2, rotary=True, window=window))
    unlimited = Attention(SIZE, num_heads=2, rotary=True, window=None).double()
    unlimited.load_state_dict(mixer.state_dict())
    x = inputs(BATCH, TIME, SIZE)
    y, state = mixer(x)
    assert state.keys.shape[2] == min(window - 1, TIME)
    for t in range(TIME):
        alone = unlimited(x[:, max(0, t + 1 - window) : t + 1])[0][:, -1]
        torch.testing.assert_close(y[:, t], alone)


def selective_inputs(time: int, dt_scale: float, dtype: torch.dtype) -> list[Tensor]:
    batch, channels, states = 2, 70, 3
    shapes = [(batch, time, channels)] * 2 + [(states, channels)] + [(batch, time, states)] * 2
    shapes.append((batch, states, channels))
    x, dt, decay, write, read, state = (inputs(*shape, seed=i) for i, shape in enumerate(shapes))
    given = [x, dt_scale * F.softplus(dt), decay.exp(), write, read, state]
    return [tensor.to(dtype).requires_grad_() for tensor in given]


@pytest.mark.parametrize("with_starts", [False, True])
@pytest.mark.parametrize("dt_scale", [1e-5, 1.0, 50.0])
@pytest.mark.parametrize("time", [1, 300, 4096])
def test_the_fused_selective_scan_is_exact(time: int, dt_scale: float, with_starts: bool) -> None:
    """Against the plain scan in float64: outputs and every gradient, from memory that never fades to none at all."""
    starts = torch.rand(2, time, generator=torch.Generator().manual_seed(9)) < 0.01 if with_starts else None
    found = []
    for path, dtype in (("cpu", torch.float32), ("plain", torch.float64)):
        given = selective_inputs(time, dt_scale, dtype)
        y, last = selective_scan(*given, starts, path=path)  # type: ignore[arg-type, misc]
        weights = inputs(*y.shape, seed=7).to(dtype)
        gradients = torch.autograd.grad((y * weights).sum() + last.square().sum(), given)
        found.append([tensor.detach().double() for tensor in (y, last, *gradients)])
    for ours, exact in zip(*found, strict=True):
        assert float((ours - exact).abs().max() / exact.abs().max().clamp(min=1e-30)) < 5e-6


def test_the_plain_selective_scan_is_a_loop() -> None:
    x, dt, decay, write, read, h = selective_inputs(7, 1.0, torch.float64)
    y, last = selective_scan(x, dt, decay, write, read, h, path="plain")
    for t in range(7):
        kept = torch.exp(-dt[:, t, None] * decay)
        h = kept * h + (1 - kept) / decay * write[:, t, :, None] * x[:, t, None]
        torch.testing.assert_close(y[:, t], (read[:, t, :, None] * h).sum(1))
    torch.testing.assert_close(last, h)


def test_the_gradient_of_a_gradient_of_the_fused_scan_is_that_of_the_plain_one() -> None:
    found = []
    for path, dtype in (("cpu", torch.float32), ("plain", torch.float64)):
        given = selective_inputs(5, 1.0, dtype)
        y, _ = selective_scan(*given, path=path)  # type: ignore[arg-type, misc]
        first = torch.autograd.grad(y.square().sum(), given[:2], create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), given[:4])
        found.append([tensor.double() for tensor in second])
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_memories_begin_spread_between_two_steps_and_the_length_asked_for(kind: Any) -> None:
    """What is left of a state after a step without input tells how long each channel remembers."""
    torch.manual_seed(0)
    mixer = kind(256, expansion=1.0, positive=False, memory_length=1000)
    mixer.output = torch.nn.Identity()
    with torch.no_grad():
        mixer.projection.bias.data[-256:] = 0.0  # no candidate
        kept = mixer.step(torch.zeros(1, 256), torch.ones(1, 256))[1]
        memories = 1 / (1 - kept)
    assert 2 <= memories.min() < 2.5
    assert 800 < memories.max() <= 1001
    assert 30 < memories.median() < 70  # the geometric middle is 45
    with pytest.raises(ValueError, match="memory_length must be at least 2 steps; got 1"):
        kind(256, expansion=1.0, positive=False, memory_length=1)
