"""torch's own GRU and LSTM under the contract of a mixer: the rivals that the minimal RNNs are measured against."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from minrnn.linear import Linear

State = tuple[Tensor, ...]


class Recurrent(nn.Module):
    """A one-layer torch.nn.GRU or torch.nn.LSTM of size expansion * hidden_size, and a projection back.

    The state is (h,) or (h, c), each [batch, expansion * hidden_size].
    """

    def __init__(self, hidden_size: int, kind: type[nn.GRU] | type[nn.LSTM], expansion: float) -> None:
        super().__init__()
        state_size = int(expansion * hidden_size)
        self.rnn = kind(hidden_size, state_size, batch_first=True)
        self.output = Linear(state_size, hidden_size)

    def forward(self, x: Tensor, state: State | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, State]:
        if starts is None:
            h, state = self._run(x, state)
            return self.output(h), state
        return self._forward_packed(x, state, starts)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.forward(x[:, None], state)
        return y[:, 0], state

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        layered: Any = None if state is None else tuple(part[None].contiguous() for part in state)
        h, last = self.rnn(x, layered[0] if layered and len(layered) == 1 else layered)
        return h, tuple(part[0] for part in (last if isinstance(last, tuple) else (last,)))

    def _forward_packed(self, x: Tensor, state: State | None, starts: Tensor) -> tuple[Tensor, State]:
        """The time axis is cut wherever some row starts; the rows that start there get a zero state."""
        cuts = sorted({0, x.shape[1], *starts.any(dim=0).nonzero().flatten().tolist()})
        outputs = []
        for begin, end in itertools.pairwise(cuts):
            if state is not None:
                state = tuple(part * ~starts[:, begin, None] for part in state)
            y, state = self.forward(x[:, begin:end], state)
            outputs.append(y)
        assert state is not None
        return torch.cat(outputs, dim=1), state


class GRU(Recurrent):
    """torch.nn.GRU (Cho et al. 2014) as a mixer."""

    def __init__(self, hidden_size: int, *, expansion: float) -> None:
        super().__init__(hidden_size, nn.GRU, expansion)


class LSTM(Recurrent):
    """torch.nn.LSTM (Hochreiter and Schmidhuber 1997) as a mixer."""

    def __init__(self, hidden_size: int, *, expansion: float) -> None:
        super().__init__(hidden_size, nn.LSTM, expansion)
