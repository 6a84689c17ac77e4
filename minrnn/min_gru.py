"""The minGRU mixer. Feng et al. 2024, section 3.1."""

import math

import torch
from torch import Tensor, nn

from minrnn import scan
from minrnn.linear import Linear


class MinGRU(nn.Module):
    """Gates that see only the input, so that all steps are computed at once.

    expansion: size of the state over hidden_size. positive: the candidate goes through g, the paper's log-space form.
    memory_length: the channels begin with memories of 2 to so many steps; None: all begin with 2. The state is
    h [batch, expansion * hidden_size].
    """

    def __init__(self, hidden_size: int, *, expansion: float, positive: bool, memory_length: int | None) -> None:
        super().__init__()
        state_size = int(expansion * hidden_size)
        self.positive = positive
        self.projection = Linear(hidden_size, 2 * state_size)
        if memory_length is not None:
            self.projection.bias.data[:state_size] = -odds_of_keeping(state_size, memory_length).log()
        self.output = Linear(state_size, hidden_size)

    def forward(self, x: Tensor, state: Tensor | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = scan.min_gru(self.projection(x), state, starts, self.positive)
        return self.output(h), h[:, -1]

    def begin(self, num_rows: int, num_steps: int) -> Tensor:
        """The state that None stands for, as tensors."""
        return self.output.weight.new_zeros(num_rows, self.output.in_features)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        share, candidate = scan.min_gru_gates(self.projection(x), self.positive)
        h = share * candidate if state is None else torch.lerp(state, candidate, share)
        return self.output(h), h


def odds_of_keeping(state_size: int, memory_length: int) -> Tensor:
    """What a channel keeps of its state over what it takes in, for memories spread between 2 steps and memory_length.

    A channel that keeps a share 1 - 1/m of its state remembers about m steps. m is drawn log-uniformly, so that every
    order of magnitude has its channels; through gates that all begin half open no gradient comes back from further than
    a few dozen steps. After Tallec and Ollivier 2018, arXiv 1804.11188, who draw it uniformly.
    """
    if memory_length < 2:
        raise ValueError(f"memory_length must be at least 2 steps; got {memory_length}")
    return torch.exp(torch.rand(state_size) * math.log(memory_length / 2)) * 2 - 1
