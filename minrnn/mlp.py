"""No mixing over time: each step is seen alone. What a backbone's memory is worth is what it gains over this one."""

from typing import Any

from torch import Tensor, nn

from minrnn.linear import Linear


class MLP(nn.Module):
    """A linear map of each step's channels, which makes a stack of blocks a residual MLP. The state is empty."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.output = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, state: Any = None, *, starts: Tensor | None = None) -> tuple[Tensor, tuple[()]]:
        return self.output(x), ()

    def begin(self, num_rows: int, num_steps: int) -> tuple[()]:
        return ()

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[()]]:
        return self.output(x), ()
