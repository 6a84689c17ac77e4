"""A policy with critics, which teach it, or choose among what it would do for several returns.

Teaching is a policy's loss of behaviour cloning minus eta times the value of what it does, as in TD3+BC (Fujimoto and
Gu 2021, arXiv 2106.06860) and QT (Hu et al. 2024); what is imitated can be the best of what the critics learn from.
Where a policy is asked for a return, the critics can choose at each step which return that is, as in QT.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from agents.actions import ContinuousActions, DiscreteActions
from agents.critics import Critics
from agents.decision_transformer import DecisionTransformer, for_each_member, mean_of_real_steps
from agents.windows import Batch
from minrnn import Backbone
from minrnn.ensemble import Ensemble

Bootstrap = Literal["recorded", "policy"]
SMALLEST_SIZE = 0.01  # of values, in return_scale: while less is known of them they do not count in full


class ValueGuided(DecisionTransformer):
    """A DecisionTransformer for continuous actions with critics that teach it, and choose where there is a choice.

    eta: weight of the value, in which 1 is the size of a usual value; for all members of an ensemble, or for each one,
    and those with 0 only imitate. advantage_weight: recorded actions count
    exp(advantage_weight * advantage) as much (at most 100 times), 0 for all alike. bootstrap: what the critics take to
    follow a step, the `recorded` behaviour or the `policy`. candidate_returns: at each step so many times the return
    still to be earned are asked for, and of the actions that they give the one with the highest value is taken; [1.0]
    for what was asked alone. The other keywords are those of Critics and of DecisionTransformer.
    """

    def __init__(
        self,
        backbone: Backbone | Ensemble,
        actions: ContinuousActions | DiscreteActions,
        *,
        eta: float | Sequence[float],
        advantage_weight: float,
        critic_size: int,
        discount: float,
        trace: float,
        expectile: float,
        bootstrap: Bootstrap = "recorded",
        candidate_returns: Sequence[float] = (1.0,),
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
        etas = for_each_member("eta", eta, backbone.num_members)
        if min(*etas, advantage_weight) < 0:
            raise ValueError(f"eta and advantage_weight must not be negative; got {eta} and {advantage_weight}")
        if bootstrap not in get_args(Bootstrap):
            raise ValueError(f"bootstrap must be one of {', '.join(get_args(Bootstrap))}; got {bootstrap!r}")
        if not candidate_returns or (len(candidate_returns) > 1 and not self.condition_on_return):
            raise ValueError(f"candidate_returns need an agent that is asked for a return; got {candidate_returns}")
        self.advantage_weight, self.bootstrap = advantage_weight, bootstrap
        taught = [member for member, one in enumerate(etas) if one > 0]
        self._taught: Tensor
        self._etas: Tensor
        self.register_buffer("_taught", torch.tensor(taught, dtype=torch.long), persistent=False)
        counted = [etas[member] for member in taught] or [0.0] * len(etas)
        self.register_buffer("_etas", torch.tensor(counted, dtype=torch.float32), persistent=False)
        self.candidate_returns = np.asarray(candidate_returns, np.float64)
        self.num_candidates = len(candidate_returns)
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
        own = self._for_policy(batch)
        predictions = self.predict_each(self._with_noise(own))
        error = self.cloning_error(predictions, own)
        ours = self.actions.squash(predictions)
        _, observations = self._normalize(batch.returns_to_go, batch.observations)
        critic_loss, metrics = self.critics.loss(
            observations,
            self.actions.encode(batch.actions),
            batch.rewards / self.return_scale,
            batch.terminated,
            batch.valid_mask,
            self._disturbed(ours.detach().mean(-2)) if self.bootstrap == "policy" else None,
            batch.starts,
        )
        share = own.valid_mask.sum() / batch.valid_mask.sum()  # of all real steps, over which a part's loss is a mean
        _, observations = self._normalize(own.returns_to_go, own.observations)
        value = self._values(observations, ours)
        size = mean_of_real_steps(value.detach().abs().mean(-1), own).clamp(min=SMALLEST_SIZE)
        if own.imitated is not None:
            value = value * own.imitated[..., None]
        recorded = self.actions.encode(own.actions)
        weight = self._weight(observations, recorded, size) if self.advantage_weight else 1.0
        cloning = share * mean_of_real_steps(weight * error, own)
        gain = share * mean_of_real_steps(value.detach().mean(-1), own) / size
        metrics |= {"loss": share * mean_of_real_steps(error, own).detach(), "value": gain}
        num_members = ours.shape[-2]
        lesson = share * mean_of_real_steps((self._etas * value).sum(-1), own) / (num_members * size)
        return cloning - lesson + critic_loss, metrics

    def _for_policy(self, batch: Batch) -> Batch:
        """The windows that count for the policy: those of which a step is imitated, or all where the critics ask it."""
        if batch.imitated is None or self.bootstrap == "policy":
            return batch
        seen = batch.imitated.any(1)
        seen[0] |= ~seen.any()  # a part of a batch without any has gradients all the same, of zero
        if self.device.type == "cuda":  # to leave windows out would make the CPU wait for what the GPU found
            return batch._replace(valid_mask=batch.valid_mask & seen[:, None])
        return Batch(*(None if x is None else x[seen] for x in batch))  # type: ignore[arg-type]

    def _disturbed(self, actions: Tensor) -> Tensor:
        """With TD3's noise, so that a value that stands alone among its neighbours is not believed."""
        assert isinstance(self.actions, ContinuousActions)
        farthest = self.actions.farthest
        noise = (0.2 * torch.randn_like(actions)).clamp(-0.5, 0.5)
        return (actions + noise).clamp(-farthest, farthest)

    def _values(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The values [B, K, taught] of what the taught members do, with gradients; where none is, of all, without.

        observations [B, K, obs_dim], actions [B, K, members, size].
        """
        actions = actions.index_select(2, self._taught) if len(self._taught) else actions.detach()
        return self.critics.value_of(observations[:, :, None].expand(-1, -1, actions.shape[2], -1), actions)

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """The policy's parameters and the critics': the gradient of one must not shorten that of the other."""
        theirs = {id(parameter) for parameter in self.critics.parameters()}
        return [[p for p in self.parameters() if id(p) not in theirs], [*self.critics.parameters()]]

    def after_update(self) -> None:
        self.critics.follow()

    # Acting: each environment is as many rows as there are candidates, which share what happens in it.

    def reset(self, num_envs: int, target_return: float) -> None:
        super().reset(num_envs * self.num_candidates, target_return)
        self._asked = np.full(num_envs, target_return, np.float64)

    @torch.inference_mode()
    def act(self, observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        self._asked -= rewards
        self._target = np.outer(self._asked, self.candidate_returns).ravel()
        rows = np.repeat(observations, self.num_candidates, axis=0)
        actions = super().act(rows, np.zeros(len(rows)))
        if self.num_candidates == 1:
            return actions
        given = [torch.as_tensor(x, dtype=torch.float32, device=self.device) for x in (observations, actions)]
        chosen = self.choose(*given).cpu().numpy()
        self._previous_actions = np.repeat(chosen, self.num_candidates, axis=0)
        return chosen

    def choose(self, observations: Tensor, offered: Tensor) -> Tensor:
        """Of the actions offered [N * candidates, size] at observations [N, obs_dim] those of the highest value."""
        offered = offered.unflatten(0, (-1, self.num_candidates))
        normalised = ((observations - self.observation_mean) / self.observation_std)[:, None]
        assert isinstance(self.actions, ContinuousActions)
        pairs = normalised.expand(-1, self.num_candidates, -1), self.actions.encode(offered)
        best = self.critics.value_of(*pairs).argmax(1)
        return offered.take_along_dim(best[:, None, None], dim=1).squeeze(1)

    @torch.no_grad()
    def _weight(self, observations: Tensor, recorded: Tensor, size: Tensor) -> Tensor:
        advantage = self.critics.value_of(observations, recorded) - self.critics.v(observations).squeeze(-1)
        return (self.advantage_weight * advantage / size).exp().clamp(max=100.0)
