"""Several backbones side by side: what an ensemble of models is, seen as one."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from minrnn.backbone import Backbone
from minrnn.linear import Linear


class Ensemble(nn.Module):
    """Backbones of one width that share nothing, each for its own part of the channels; itself a backbone.

    Tokens are [batch, time, hidden_size], hidden_size being that of all members together; the state is a tuple with
    one entry a member. Member by member, and not as batched matrix products: on a processor a member's products are
    large enough, and batched ones take longer (benchmarks/ensemble.py prints both).
    """

    def __init__(self, members: Iterable[Backbone]) -> None:
        super().__init__()
        together = [*members]
        self.members: Any = nn.ModuleList(together)
        self.num_members = len(together)
        self.hidden_size = sum(member.hidden_size for member in together)

    def forward(self, x: Tensor, state: Any = None, *, starts: Tensor | None = None) -> tuple[Tensor, Any]:
        members = self._divided(x, state)
        return self._joined(member(part, own, starts=starts) for member, part, own in members)

    def begin(self, num_rows: int, num_steps: int) -> tuple[Any, ...]:
        return tuple(member.begin(num_rows, num_steps) for member in self.members)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self._joined(member.step(part, own) for member, part, own in self._divided(x, state))

    def _divided(self, x: Tensor, state: Any) -> Iterator[tuple[Any, Tensor, Any]]:
        """Each member, its part of the channels, and its state."""
        states = state or [None] * self.num_members
        yield from zip(self.members, x.chunk(self.num_members, dim=-1), states, strict=True)

    def _joined(self, parts: Iterable[tuple[Tensor, Any]]) -> tuple[Tensor, tuple[Any, ...]]:
        outputs, states = zip(*parts, strict=True)
        return torch.cat(outputs, dim=-1), states


class Heads(nn.Module):
    """The members' own linear maps: from outputs side by side [..., hidden_size] to [..., num_members, num_outputs]."""

    def __init__(self, num_members: int, hidden_size: int, num_outputs: int) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(Linear(hidden_size // num_members, num_outputs) for _ in range(num_members))

    def forward(self, y: Tensor) -> Tensor:
        parts = y.chunk(len(self.members), dim=-1)
        return torch.stack([head(part) for head, part in zip(self.members, parts, strict=True)], dim=-2)


def side_by_side(layer: nn.Linear, num_members: int) -> list[nn.Linear]:
    """The maps to each member's own part of a layer's outputs, on the layer's own memory."""
    parts = []
    for weight, bias in zip(layer.weight.chunk(num_members), layer.bias.chunk(num_members), strict=True):
        part = nn.Linear(layer.in_features, len(bias), device="meta")
        part.weight, part.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        parts.append(part)
    return parts
