"""What an action is to a network: how it is read in, learnt and decided on. Raw units stay outside.

Learning works on tensors, acting on arrays: a policy's few numbers a step cost less in numpy.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# What a prediction learns from a recorded action: the squared error makes it the mean of what was done in such a place;
# the absolute error the median; the likelihood of a normal distribution before tanh its mode, and a spread beside it.
# Where data was recorded with noise, the last two are what was meant before the noise.
ActionLoss = Literal["squared", "absolute", "likelihood"]
LOG_SPREADS = (-5.0, 2.0)
INNERMOST = 1 - 1e-4  # of the range: what is nearer to a bound counts as that far from it


class ContinuousActions(nn.Module):
    """Actions in a box: scaled to [-1, 1] inside, tanh keeps the decision within the bounds.

    low and high [action_dim]: the bounds; a dimension with None on either side is neither scaled nor squashed.
    """

    def __init__(self, low: Sequence[float | None], high: Sequence[float | None]) -> None:
        super().__init__()
        lower, upper = (torch.tensor([float("nan") if b is None else b for b in bound]) for bound in (low, high))
        bounded = torch.isfinite(lower) & torch.isfinite(upper)
        self.size = len(lower)
        self.bounded: Tensor
        self.center: Tensor
        self.half_range: Tensor
        self.register_buffer("bounded", bounded, persistent=False)
        self.register_buffer("center", torch.where(bounded, (upper + lower) / 2, 0.0), persistent=False)
        self.register_buffer("half_range", torch.where(bounded, (upper - lower) / 2, 1.0), persistent=False)
        self.farthest: Tensor
        self.register_buffer("farthest", torch.where(bounded, 1.0, torch.inf), persistent=False)
        self._acting_bounds = tuple(x.cpu().numpy().copy() for x in (self.bounded, self.center, self.half_range))

    def encode(self, actions: Tensor) -> Tensor:
        """Network input [..., size]: [-1, 1] spans the bounds; what was recorded beyond a bound counts as the bound."""
        return ((actions - self.center) / self.half_range).clamp(-self.farthest, self.farthest)

    def num_outputs(self, loss: ActionLoss) -> int:
        """Width of a prediction: the likelihood has a spread beside each action."""
        return 2 * self.size if loss == "likelihood" else self.size

    def loss(self, prediction: Tensor, actions: Tensor, loss: ActionLoss) -> Tensor:
        """What each step's prediction [..., num_outputs] has still to learn, mean over action dimensions."""
        if loss == "squared":
            return self.error(prediction, actions)
        if loss == "absolute":
            return (self.squash(prediction) - self.encode(actions)).abs().mean(-1)
        center, log_spread = prediction.chunk(2, dim=-1)
        log_spread = log_spread.clamp(*LOG_SPREADS)
        distance = (self._unsquash(self.encode(actions)) - center) * torch.exp(-log_spread)
        return (distance.square() / 2 + log_spread).mean(-1)

    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """Squared error of each step, mean over action dimensions, in units of half the action's range."""
        return (self.squash(prediction) - self.encode(actions)).square().mean(-1)

    def squash(self, prediction: Tensor) -> Tensor:
        """The action [..., size] that a prediction stands for, scaled as `encode` scales."""
        center = prediction[..., : self.size]
        return torch.where(self.bounded, torch.tanh(center), center)

    def _unsquash(self, encoded: Tensor) -> Tensor:
        """What tanh would make of it, for actions at a bound some finite number."""
        return torch.where(self.bounded, torch.atanh(encoded.clamp(-INNERMOST, INNERMOST)), encoded)

    def decide(self, prediction: NDArray[np.float32]) -> NDArray[np.float32]:
        """The actions [N, size] in environment units."""
        bounded, bounds_center, half_range = self._acting_bounds
        center = prediction[..., : self.size]
        return bounds_center + half_range * np.where(bounded, np.tanh(center), center)

    def none(self, num_envs: int) -> NDArray[np.float32]:
        """What stands for the previous action at an episode's first step."""
        return np.zeros((num_envs, self.size), np.float32)

    def features(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """`encode` for arrays."""
        _, center, half_range = self._acting_bounds
        return (actions - center) / half_range


class DiscreteActions(nn.Module):
    """One of num_actions: one-hot inside, the likeliest is taken."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.size = num_actions

    def encode(self, actions: Tensor) -> Tensor:
        """Network input [..., num_actions]; zeros for -1, the action before an episode's first."""
        return F.one_hot(actions + 1, self.size + 1)[..., 1:].to(torch.float32)

    def num_outputs(self, loss: ActionLoss) -> int:
        return self.size

    def loss(self, prediction: Tensor, actions: Tensor, loss: ActionLoss) -> Tensor:
        """Cross-entropy of each step, whatever the loss for continuous actions."""
        return self.error(prediction, actions)

    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """Cross-entropy of each step."""
        return F.cross_entropy(prediction.flatten(0, -2), actions.flatten(), reduction="none").view_as(actions)

    def decide(self, prediction: NDArray[np.float32]) -> NDArray[np.int64]:
        return prediction.argmax(-1)

    def none(self, num_envs: int) -> NDArray[np.int64]:
        return np.full(num_envs, -1)

    def features(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """`encode` for arrays."""
        return (actions[:, None] == np.arange(self.size)).astype(np.float32)
