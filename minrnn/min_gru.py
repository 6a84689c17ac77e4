"""The minGRU mixer. Feng et al. 2024, section 3.1."""

import torch
from torch import Tensor, nn

from minrnn import scan
from minrnn.linear import Linear


class MinGRU(nn.Module):
    """Gates that see only the input, so that all steps are computed at once.

    expansion: size of the state over hidden_size. positive: the candidate goes through g, the paper's log-space form.
    The state is h [batch, expansion * hidden_size].
    """

    def __init__(self, hidden_size: int, *, expansion: float, positive: bool) -> None:
        super().__init__()
        state_size = int(expansion * hidden_size)
        self.positive = positive
        self.projection = Linear(hidden_size, 2 * state_size)
        self.output = Linear(state_size, hidden_size)

    def forward(self, x: Tensor, state: Tensor | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = scan.min_gru(self.projection(x), state, starts, self.positive)
        return self.output(h), h[:, -1]

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        share, candidate = scan.min_gru_gates(self.projection(x), self.positive)
        h = share * candidate if state is None else torch.lerp(state, candidate, share)
        return self.output(h), h
