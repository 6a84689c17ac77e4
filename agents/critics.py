"""Twin critics that learn the values of recorded actions, in sample: what is never recorded is never asked about.

As in IQL (Kostrikov et al. 2021, arXiv 2110.06169): V learns an upper expectile of Q over the recorded actions, Q
learns from rewards and V. Windows hold many steps in a row, so Q's target looks further than one: a lambda-return.
What follows a step may be valued as the policy would go on, too: as in TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860).
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from minrnn.activation import GELU
from minrnn.linear import Linear


class Critics(nn.Module):
    """Two Q(observation, action), one V(observation), and slow copies of the Qs that targets and policies look at.

    Everything that comes in is normalised: observations [..., obs_dim], actions [..., action_dim] in [-1, 1], rewards
    [batch, time] in units in which values are of the order of one. discount: of the rewards, a step. trace: lambda, 0
    for one-step targets, 1 for the recorded return up to the window's end. expectile: 0.5 for the value of the recorded
    behaviour, towards 1 for that of its best actions.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, *, hidden_size: int, discount: float, trace: float, expectile: float
    ) -> None:
        super().__init__()
        for name, value in (("discount", discount), ("trace", trace), ("expectile", expectile)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1; got {value}")
        self.discount, self.trace, self.expectile = discount, trace, expectile
        self.q = nn.ModuleList([_network(obs_dim + action_dim, hidden_size) for _ in range(2)])
        self.v = _network(obs_dim, hidden_size)
        self.slow_q = copy.deepcopy(self.q).requires_grad_(False)

    def loss(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        terminated: Tensor,
        valid_mask: Tensor,
        policy_actions: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What V and both Qs have still to learn, and what is worth logging. terminated, valid_mask: bool [B, K].

        policy_actions: what the policy does at these steps, for targets that go on as the policy would; None for V's.
        starts: bool [B, K], where another episode begins within a row; None where none does.
        """
        pairs = torch.cat([observations, actions], -1)
        values = self.v(observations).squeeze(-1)
        with torch.no_grad():
            slow_values = _lowest(self.slow_q, pairs)
            ahead = values if policy_actions is None else self.value_of(observations, policy_actions)
            targets, known = self._targets(ahead, rewards, terminated, valid_mask, starts)
        missing = slow_values - values
        weights = torch.where(missing > 0, self.expectile, 1 - self.expectile)
        v_loss = _mean(weights * missing.square(), valid_mask)
        q_loss = sum((_mean((q(pairs).squeeze(-1) - targets).square(), known) for q in self.q), torch.zeros(()))
        return v_loss + q_loss, {"v_loss": v_loss.detach(), "q_loss": q_loss.detach()}

    def value_of(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The lower of the two slow Qs [...]: gradients reach the actions and nothing else."""
        return _lowest(self.slow_q, torch.cat([observations, actions], -1))

    @torch.no_grad()
    def follow(self, share: float = 0.005) -> None:
        """Moves the slow Qs towards the Qs."""
        for slow, fast in zip(self.slow_q.parameters(), self.q.parameters(), strict=True):
            slow.lerp_(fast, share)

    def _targets(
        self, values: Tensor, rewards: Tensor, terminated: Tensor, valid_mask: Tensor, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What each Q should be, and where that is known: not where the step after is neither there nor an end."""
        followed = torch.zeros_like(valid_mask)
        followed[:, :-1] = valid_mask[:, 1:] if starts is None else valid_mask[:, 1:] & ~starts[:, 1:]
        targets, later = torch.empty_like(rewards), torch.zeros_like(rewards[:, 0])
        for step in reversed(range(rewards.shape[1])):
            next_value = values[:, min(step + 1, rewards.shape[1] - 1)]
            here = followed[:, step] & ~terminated[:, step]
            ahead = torch.where(here, (1 - self.trace) * next_value + self.trace * later, 0.0)
            targets[:, step] = rewards[:, step] + self.discount * ahead
            # a step whose next one is not known passes on its own value instead
            later = torch.where(followed[:, step] | terminated[:, step], targets[:, step], values[:, step])
        return targets, valid_mask & (followed | terminated)


def _network(input_size: int, hidden_size: int) -> nn.Sequential:
    sizes, layers = (input_size, hidden_size, hidden_size), list[nn.Module]()
    for inputs, outputs in pairwise(sizes):
        layers += [Linear(inputs, outputs), nn.LayerNorm(outputs), GELU()]
    last = Linear(hidden_size, 1)
    nn.init.zeros_(last.weight)  # until something is known, no action is worth more than another
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _lowest(networks: nn.ModuleList, pairs: Tensor) -> Tensor:
    first, second = (network(pairs).squeeze(-1) for network in networks)
    return torch.minimum(first, second)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
