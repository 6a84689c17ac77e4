"""The Mamba mixer: a selective state space. Gu and Dao 2023, arXiv 2312.00752."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.convolution import CausalConvolution
from minrnn.linear import Linear
from minrnn.selective import selective_scan, selective_step

SLOWEST, FASTEST = 1e-3, 1e-1  # time steps that the channels begin with, as in the paper

State = tuple[Tensor, Tensor]


class Mamba(nn.Module):
    """A gated block around a state space whose time step, input and output depend on what is read (S6).

    expansion: channels over hidden_size. state_size: numbers each channel remembers. conv_width: steps of the causal
    convolution before it. The state is the last conv_width - 1 inputs of the convolution and h [batch, state_size,
    expansion * hidden_size].
    """

    def __init__(self, hidden_size: int, *, expansion: float, state_size: int, conv_width: int) -> None:
        super().__init__()
        inner_size, rank = int(expansion * hidden_size), math.ceil(hidden_size / 16)
        self.projection = Linear(hidden_size, 2 * inner_size)
        self.convolution = CausalConvolution(inner_size, width=conv_width)
        self.sizes = [rank, state_size, state_size]
        self.select = Linear(inner_size, sum(self.sizes), bias=False)
        self.time_step = Linear(rank, inner_size)
        with torch.no_grad():
            usual = torch.empty(inner_size).uniform_(math.log(SLOWEST), math.log(FASTEST)).exp()
            self.time_step.bias.copy_(usual + torch.log(-torch.expm1(-usual)))  # softplus of it is `usual`
        decay = torch.arange(1.0, state_size + 1)[:, None].expand(state_size, inner_size)
        self.log_decay = nn.Parameter(decay.log().clone())  # S4D-Real: the states decay at rates 1, 2, 3, ...
        self.skip = nn.Parameter(torch.ones(inner_size))
        self.output = Linear(inner_size, hidden_size)

    def forward(self, x: Tensor, state: State | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, State]:
        past, h = (None, None) if state is None else state
        content, gate = self.projection(x).chunk(2, dim=-1)
        content, past = self.convolution(content, past, starts=starts)
        content = F.silu(content)
        y, h = selective_scan(content, *self._selected(content), h, starts)
        return self._finish(y, content, gate), (past, h)

    def begin(self, num_rows: int, num_steps: int) -> State:
        """The state that None stands for."""
        return self.convolution.begin(num_rows, num_steps), self.skip.new_zeros(num_rows, *self.log_decay.shape)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past, h = (None, None) if state is None else state
        content, gate = self.projection(x).chunk(2, dim=-1)
        content, past = self.convolution.step(content, past)
        content = F.silu(content)
        y, h = selective_step(content, *self._selected(content), h)
        return self._finish(y, content, gate), (past, h)

    def _selected(self, content: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The time step [..., channels], the decay rates, and what is written and read [..., state_size]."""
        low, write, read = self.select(content).split(self.sizes, dim=-1)
        return F.softplus(self.time_step(low)), self.log_decay.exp(), write, read

    def _finish(self, y: Tensor, content: Tensor, gate: Tensor) -> Tensor:
        finished: Tensor = self.output((y + self.skip * content) * F.silu(gate))
        return finished
