"""torch's own GRU and LSTM under the contract of a mixer: the rivals that the minimal RNNs are measured against."""

from typing import Any

from torch import Tensor, nn

from minrnn.linear import Linear
from minrnn.packing import forward_between_starts

State = tuple[Tensor, ...]


class Recurrent(nn.Module):
    """A one-layer torch.nn.GRU or torch.nn.LSTM of size expansion * hidden_size, and a projection back.

    The state is (h,) or (h, c), each [batch, expansion * hidden_size].
    """

    def __init__(self, hidden_size: int, kind: type[nn.GRU] | type[nn.LSTM], expansion: float) -> None:
        super().__init__()
        state_size = int(expansion * hidden_size)
        self.rnn = kind(hidden_size, state_size, batch_first=True)
        self.num_parts = 2 if kind is nn.LSTM else 1
        self.output = Linear(state_size, hidden_size)

    def forward(self, x: Tensor, state: State | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, State]:
        state = self.begin(len(x), 0) if state is None else state
        h, last = forward_between_starts(self._run, x, state, starts, _forget)
        return self.output(h), last

    def begin(self, num_rows: int, num_steps: int) -> State:
        """The state that None stands for."""
        return (self.output.weight.new_zeros(num_rows, self.output.in_features),) * self.num_parts

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.forward(x[:, None], state)
        return y[:, 0], state

    def _run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        layered: Any = tuple(part[None].contiguous() for part in state)
        h, last = self.rnn(x, layered[0] if len(layered) == 1 else layered)
        return h, tuple(part[0] for part in (last if isinstance(last, tuple) else (last,)))


def _forget(state: State, rows: Tensor) -> State:
    return tuple(part.masked_fill(rows[:, None], 0.0) for part in state)


class GRU(Recurrent):
    """torch.nn.GRU (Cho et al. 2014) as a mixer."""

    def __init__(self, hidden_size: int, *, expansion: float) -> None:
        super().__init__(hidden_size, nn.GRU, expansion)


class LSTM(Recurrent):
    """torch.nn.LSTM (Hochreiter and Schmidhuber 1997) as a mixer."""

    def __init__(self, hidden_size: int, *, expansion: float) -> None:
        super().__init__(hidden_size, nn.LSTM, expansion)
