"""The minLSTM mixer. Feng et al. 2024, section 3.2, with the length-independent (normalised) gates."""

import torch
from torch import Tensor, nn

from minrnn import scan
from minrnn.linear import Linear
from minrnn.min_gru import odds_of_keeping


class MinLSTM(nn.Module):
    """As MinGRU, with separate forget and input gates that are divided by their sum."""

    def __init__(self, hidden_size: int, *, expansion: float, positive: bool, memory_length: int | None) -> None:
        super().__init__()
        state_size = int(expansion * hidden_size)
        self.positive = positive
        self.projection = Linear(hidden_size, 3 * state_size)
        if memory_length is not None:  # the forget gate begins near 1, the input gate at 1 / memory
            odds = odds_of_keeping(state_size, memory_length)
            self.projection.bias.data[: 2 * state_size] = torch.cat([odds.log(), -odds.log()])
        self.output = Linear(state_size, hidden_size)

    def forward(self, x: Tensor, state: Tensor | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = scan.min_lstm(self.projection(x), state, starts, self.positive)
        return self.output(h), h[:, -1]

    def begin(self, num_rows: int, num_steps: int) -> Tensor:
        """The state that None stands for, as tensors."""
        return self.output.weight.new_zeros(num_rows, self.output.in_features)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        share, candidate = scan.min_lstm_gates(self.projection(x), self.positive)
        h = share * candidate if state is None else torch.lerp(state, candidate, share)
        return self.output(h), h
