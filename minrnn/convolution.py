"""A short causal convolution over time, one filter a channel: what a mixer without a past of its own may look at."""

import torch
from torch import Tensor, nn


class CausalConvolution(nn.Module):
    """y_t = bias + sum_k weight_k * x_{t-k} over the last `width` steps; begins as the identity.

    Itself a mixer. The state is the last width - 1 inputs [batch, width - 1, hidden_size].
    """

    def __init__(self, hidden_size: int, *, width: int) -> None:
        super().__init__()
        if width < 2:
            raise ValueError(f"the width of a convolution must be at least 2 steps; got {width}")
        self.width = width
        weight = torch.zeros(width, hidden_size)
        weight[0] = 1.0
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor, state: Tensor | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        time, past = x.shape[1], self.width - 1
        state = self.begin(len(x), time) if state is None else state
        inputs = torch.cat([state, x], dim=1)
        sequence = None if starts is None else _sequence_numbers(starts, past)
        y = torch.addcmul(self.bias, x, self.weight[0])
        for k in range(1, self.width):
            shifted = inputs[:, past - k : past - k + time]
            if sequence is not None:
                shifted = shifted * (sequence[:, past - k : past - k + time] == sequence[:, past:])[..., None]
            y = torch.addcmul(y, shifted, self.weight[k])
        state = inputs[:, time:]
        if sequence is not None:
            state = state * (sequence[:, time:] == sequence[:, -1:])[..., None]
        return y, state

    def begin(self, num_rows: int, num_steps: int) -> Tensor:
        """The state that None stands for."""
        return self.bias.new_zeros(num_rows, self.width - 1, len(self.bias))

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, state = self.forward(x[:, None], state)
        return y[:, 0], state


def _sequence_numbers(starts: Tensor, past: int) -> Tensor:
    """Which of a row's sequences each input belongs to [batch, past + time], the state's inputs to the first."""
    return torch.nn.functional.pad(starts.cumsum(dim=1), (past, 0))
