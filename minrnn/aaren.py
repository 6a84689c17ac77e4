"""The Aaren mixer: attention whose query does not depend on the input, hence an RNN. Feng et al. 2024, 2405.13956."""

import torch
from torch import Tensor, nn

from minrnn import scan
from minrnn.linear import Linear
from minrnn.packing import forward_between_starts

NOTHING_YET = -1e30  # the logarithm of the weight of an empty past: low enough for anything to outweigh it
CERTAIN = 40.0  # sigmoid of it is 1 to double precision

State = tuple[Tensor, Tensor]


class Aaren(nn.Module):
    """Softmax attention of one learned query a head over all steps so far, in constant memory.

    The mean of the values v under weights exp(score) follows a recurrence that is the minGRU's: a new step moves it by
    its share p_t = exp(score_t) / sum_{i <= t} exp(score_i) towards v_t. A fixed query makes a head's score a linear
    function of the input, which is how it is learnt here. expansion: size of the values over hidden_size. The state is
    the logarithm of the sum of the weights [batch, num_heads] and the mean [batch, expansion * hidden_size].
    """

    def __init__(self, hidden_size: int, *, num_heads: int, expansion: float) -> None:
        super().__init__()
        state_size = int(expansion * hidden_size)
        if state_size % num_heads:
            raise ValueError(f"{num_heads} heads cannot share {state_size} values: expansion * hidden_size must divide")
        self.num_heads, self.head_size = num_heads, state_size // num_heads
        self.projection = Linear(hidden_size, num_heads + state_size)
        self.output = Linear(state_size, hidden_size)

    def forward(self, x: Tensor, state: State | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, State]:
        scores, values = self._read(x)
        total, mean = (None, None) if state is None else state
        gates, total = _log_odds(scores, total, starts)
        gates = gates.repeat_interleave(self.head_size, dim=-1)
        h = scan.min_gru(torch.cat([gates, values], dim=-1), mean, starts)
        return self.output(h), (total, h[:, -1])

    def begin(self, num_rows: int, num_steps: int) -> State:
        """The state that None stands for."""
        total = self.output.weight.new_full((num_rows, self.num_heads), NOTHING_YET)
        return total, self.output.weight.new_zeros(num_rows, self.output.in_features)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.forward(x[:, None], state)
        return y[:, 0], state

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, values = self.projection(x).tensor_split([self.num_heads], dim=-1)
        return scores, values


def _log_odds(scores: Tensor, total: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of each step against all before it [batch, time, heads], and the logarithm of the sum of all weights."""
    if total is None:
        total = scores.new_full((scores.shape[0], scores.shape[2]), NOTHING_YET)
    return forward_between_starts(_log_odds_of_one, scores, total, starts, _forget)


def _forget(total: Tensor, rows: Tensor) -> Tensor:
    return total.masked_fill(rows[:, None], NOTHING_YET)


def _log_odds_of_one(scores: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    totals = torch.cat([total[:, None], scores], dim=1).logcumsumexp(dim=1)
    return (scores - totals[:, :-1]).clamp(max=CERTAIN), totals[:, -1]
