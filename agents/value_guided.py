"""A decision transformer whose actions are also drawn towards those that critics value.

Supervision alone repeats the best that was recorded under a return; where no episode earned much, that is not much.
The policy's loss is behaviour cloning minus eta times the value of what it does, as in QT (Hu et al. 2024) and TD3+BC
(Fujimoto and Gu 2021, arXiv 2106.06860).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agents.actions import ContinuousActions, DiscreteActions
from agents.critics import Critics
from agents.decision_transformer import DecisionTransformer, mean_of_real_steps
from agents.windows import Batch
from minrnn import Backbone

SMALLEST_SIZE = 0.01  # of values, in return_scale: while less is known of them they do not count in full


class ValueGuided(DecisionTransformer):
    """A DecisionTransformer for continuous actions with critics beside it; they teach it, and do not act.

    eta: weight of the value, in which 1 is the size of a usual value. advantage_weight: recorded actions count
    exp(advantage_weight * advantage) as much (at most 100 times), 0 for all alike. The other keywords are those of
    Critics and of DecisionTransformer.
    """

    def __init__(
        self,
        backbone: Backbone,
        actions: ContinuousActions | DiscreteActions,
        *,
        eta: float,
        advantage_weight: float,
        critic_size: int,
        discount: float,
        trace: float,
        expectile: float,
        observation_mean: Sequence[float],
        observation_std: Sequence[float],
        return_scale: float,
        **settings: Any,
    ) -> None:
        super().__init__(
            backbone,
            actions,
            observation_mean=observation_mean,
            observation_std=observation_std,
            return_scale=return_scale,
            **settings,
        )
        if not isinstance(actions, ContinuousActions):
            raise ValueError("value guidance follows the gradient of a value by the action: actions must be continuous")
        if eta < 0 or advantage_weight < 0:
            raise ValueError(f"eta and advantage_weight must not be negative; got {eta} and {advantage_weight}")
        self.eta, self.advantage_weight = eta, advantage_weight
        self.critics = Critics(
            len(observation_mean),
            actions.size,
            hidden_size=critic_size,
            discount=discount,
            trace=trace,
            expectile=expectile,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss and the critics'; `loss` in the metrics is the error of the predicted actions."""
        assert isinstance(self.actions, ContinuousActions)
        prediction = self.predict(self._with_noise(batch))
        _, observations = self._normalize(batch.returns_to_go, batch.observations)
        recorded = self.actions.encode(batch.actions)
        error = self.actions.loss(prediction, batch.actions)
        critic_loss, metrics = self.critics.loss(
            observations, recorded, batch.rewards / self.return_scale, batch.terminated, batch.valid_mask
        )
        value = self.critics.value_of(observations, self.actions.squash(prediction))
        size = mean_of_real_steps(value.detach().abs(), batch).clamp(min=SMALLEST_SIZE)
        weight = self._weight(observations, recorded, size) if self.advantage_weight else 1.0
        cloning = mean_of_real_steps(weight * error, batch)
        gain = mean_of_real_steps(value, batch) / size
        metrics |= {"loss": mean_of_real_steps(error, batch).detach(), "value": gain.detach()}
        return cloning - self.eta * gain + critic_loss, metrics

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """The policy's parameters and the critics': the gradient of one must not shorten that of the other."""
        theirs = {id(parameter) for parameter in self.critics.parameters()}
        return [[p for p in self.parameters() if id(p) not in theirs], [*self.critics.parameters()]]

    def after_update(self) -> None:
        self.critics.follow()

    @torch.no_grad()
    def _weight(self, observations: Tensor, recorded: Tensor, size: Tensor) -> Tensor:
        advantage = self.critics.value_of(observations, recorded) - self.critics.v(observations).squeeze(-1)
        return (self.advantage_weight * advantage / size).exp().clamp(max=100.0)
