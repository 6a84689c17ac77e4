"""A backbone: a stack of pre-norm residual blocks, each one mixer (over time) and one MLP (over channels)."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Protocol

from torch import Tensor, nn

from minrnn.aaren import Aaren
from minrnn.activation import GELU
from minrnn.attention import Attention
from minrnn.convolution import CausalConvolution
from minrnn.dropout import DroppedSum
from minrnn.linear import Linear
from minrnn.mamba import Mamba
from minrnn.min_gru import MinGRU
from minrnn.min_lstm import MinLSTM
from minrnn.mlp import MLP
from minrnn.recurrent import GRU, LSTM
from minrnn.s4d import S4D


class Mixer(Protocol):
    """A causal map over time: parallel in training, one step at a time when acting.

    A state of None is the start of a sequence; what a state is, only its mixer knows. starts [batch, time] is True
    where a new sequence begins within a row: nothing before such a step reaches it.
    """

    def forward(self, x: Tensor, state: Any = None, *, starts: Tensor | None = None) -> tuple[Tensor, Any]:
        """From [batch, time, hidden_size] to the same shape, and the state after the last step."""

    def begin(self, num_rows: int, num_steps: int) -> Any:
        """A state of tensors whose sizes do not change in num_steps steps, for `step` to take in place of None."""

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step [batch, hidden_size]: what `forward` gives for it."""


MIXERS: dict[str, type[nn.Module]] = {
    "aaren": Aaren,
    "attention": Attention,
    "gru": GRU,
    "lstm": LSTM,
    "mamba": Mamba,
    "min_gru": MinGRU,
    "min_lstm": MinLSTM,
    "mlp": MLP,
    "s4d": S4D,
}


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)); dropout on both branches.

    conv_width: a causal convolution over so many steps stands before the mixer; None for none. The state is then the
    pair of theirs.
    """

    def __init__(
        self, mixer: nn.Module, hidden_size: int, mlp_ratio: float, dropout: float, conv_width: int | None = None
    ) -> None:
        super().__init__()
        inner_size = int(mlp_ratio * hidden_size)
        self.conv = None if conv_width is None else CausalConvolution(hidden_size, width=conv_width)
        self.mixer_norm = nn.LayerNorm(hidden_size)
        self.mixer: Any = mixer
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(Linear(hidden_size, inner_size), GELU(), Linear(inner_size, hidden_size))
        self.add = DroppedSum(dropout)

    def forward(self, x: Tensor, state: Any = None, *, starts: Tensor | None = None) -> tuple[Tensor, Any]:
        y = self.mixer_norm(x)
        if self.conv is None:
            y, state = self.mixer(y, state, starts=starts)
            return self._finish(x, y), state
        past, state = state or (None, None)
        y, past = self.conv(y, past, starts=starts)
        y, state = self.mixer(y, state, starts=starts)
        return self._finish(x, y), (past, state)

    def begin(self, num_rows: int, num_steps: int) -> Any:
        state = self.mixer.begin(num_rows, num_steps)
        return state if self.conv is None else (self.conv.begin(num_rows, num_steps), state)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y = self.mixer_norm(x)
        if self.conv is None:
            y, state = self.mixer.step(y, state)
            return self._finish(x, y), state
        past, state = state or (None, None)
        y, past = self.conv.step(y, past)
        y, state = self.mixer.step(y, state)
        return self._finish(x, y), (past, state)

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.add(x, y)
        return self.add(x, self.mlp(self.mlp_norm(x)))


class Backbone(nn.Module):
    """num_layers blocks around the mixer called name, and a last norm; itself a mixer.

    mixer: the keywords of MIXERS[name]. conv_width: as in Block. The state is a tuple with one entry a block.
    """

    num_members = 1  # see minrnn.ensemble

    def __init__(
        self,
        name: str,
        *,
        hidden_size: int,
        num_layers: int,
        mlp_ratio: float,
        dropout: float,
        mixer: Mapping[str, Any],
        conv_width: int | None = None,
    ) -> None:
        super().__init__()
        if name not in MIXERS:
            near = get_close_matches(name, MIXERS, 1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"backbone must be one of {', '.join(sorted(MIXERS))}; got {name!r}{hint}")
        self.hidden_size = hidden_size
        self.blocks: Any = nn.ModuleList(
            Block(MIXERS[name](hidden_size, **mixer), hidden_size, mlp_ratio, dropout, conv_width)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, state: Any = None, *, starts: Tensor | None = None) -> tuple[Tensor, Any]:
        states = []
        for block, block_state in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            x, block_state = block(x, block_state, starts=starts)
            states.append(block_state)
        return self.norm(x), tuple(states)

    def begin(self, num_rows: int, num_steps: int) -> tuple[Any, ...]:
        return tuple(block.begin(num_rows, num_steps) for block in self.blocks)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        states = []
        for block, block_state in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            x, block_state = block.step(x, block_state)
            states.append(block_state)
        return self.norm(x), tuple(states)
