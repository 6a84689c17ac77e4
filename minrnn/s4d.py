"""The S4D mixer: a diagonal linear state space, the same at every step. Gu et al. 2022, arXiv 2206.11893."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.linear import Linear
from minrnn.packing import forward_between_starts

SLOWEST, FASTEST = 1e-3, 1e-1  # time steps that the channels begin with, as in the paper


class S4D(nn.Module):
    """Each channel drives its own damped oscillators; what they sum to goes through a GELU and a gated projection.

    h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A x_t and y_t = 2 Re(C h_t) + D x_t: the zero-order hold of
    h' = A h + x, begun as S4D-Lin, A_n = -1/2 + i pi n. All steps at once are a convolution, computed by FFT.
    state_size: numbers a channel remembers, two for each oscillator. The state is h [batch, hidden_size,
    state_size / 2, 2], real and imaginary.
    """

    def __init__(self, hidden_size: int, *, state_size: int) -> None:
        super().__init__()
        if state_size < 2 or state_size % 2:
            raise ValueError(f"state_size must be even, two numbers for each oscillator; got {state_size}")
        shape = (hidden_size, state_size // 2)
        self.log_step = nn.Parameter(torch.empty(hidden_size).uniform_(math.log(SLOWEST), math.log(FASTEST)))
        self.log_damping = nn.Parameter(torch.full(shape, math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(shape[1]).expand(shape).clone())
        self.read = nn.Parameter(torch.randn(*shape, 2) * 0.5**0.5)  # C, real and imaginary
        self.skip = nn.Parameter(torch.randn(hidden_size))
        self.output = Linear(hidden_size, 2 * hidden_size)

    def forward(self, x: Tensor, state: Tensor | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = self.begin(len(x), 0).to(x.dtype) if state is None else state
        y, last = forward_between_starts(self._convolve, x, state, starts, _forget)
        return self._finish(x, y), last

    def begin(self, num_rows: int, num_steps: int) -> Tensor:
        """The state that None stands for."""
        return self.skip.new_zeros(num_rows, *self.frequency.shape, 2)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """In real numbers alone: not everything that runs an exported step has complex ones."""
        re, im, dt = -self.log_damping.exp(), self.frequency, self.log_step.exp()[:, None]
        keep_re, keep_im = (dt * re).exp() * (dt * im).cos(), (dt * re).exp() * (dt * im).sin()
        size = re.square() + im.square()
        write_re, write_im = ((keep_re - 1) * re + keep_im * im) / size, (keep_im * re - (keep_re - 1) * im) / size
        h_re, h_im = write_re * x[..., None], write_im * x[..., None]
        if state is not None:
            old_re, old_im = state.unbind(-1)
            h_re, h_im = h_re + keep_re * old_re - keep_im * old_im, h_im + keep_re * old_im + keep_im * old_re
        y = 2 * (self.read[..., 0] * h_re - self.read[..., 1] * h_im).sum(-1)
        return self._finish(x, y), torch.stack([h_re, h_im], dim=-1)

    def _convolve(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What the oscillators give for x [batch, time, hidden_size] from this state, and the state after it."""
        time, h = x.shape[1], torch.view_as_complex(state)
        rate = torch.complex(-self.log_damping.exp(), self.frequency)  # A
        scaled = rate * self.log_step.exp()[:, None]  # dt A
        write, read = (scaled.exp() - 1) / rate, torch.view_as_complex(self.read)
        powers = torch.exp(scaled * torch.arange(time, device=x.device)[:, None, None])  # [time, hidden_size, pairs]
        kernel = 2 * (powers * (write * read)).sum(-1).real
        y = torch.fft.irfft(
            torch.fft.rfft(x, 2 * time, dim=1) * torch.fft.rfft(kernel, 2 * time, dim=0), 2 * time, dim=1
        )
        carried = 2 * torch.einsum("thn,bhn->bth", powers, read * scaled.exp() * h).real
        driven = torch.einsum("bth,thn->bhn", x.to(powers.dtype), powers.flip(0)) * write
        last = powers[-1] * scaled.exp() * h + driven
        return y[:, :time] + carried, torch.view_as_real(last)

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.output(F.gelu(y + self.skip * x))
        return F.glu(z, dim=-1)


def _forget(state: Tensor, rows: Tensor) -> Tensor:
    return state.masked_fill(rows[:, None, None, None], 0.0)
