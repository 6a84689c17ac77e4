"""The decision transformer (Chen et al. 2021) over any causal backbone: act so as to earn the return asked for."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.actions import ActionLoss, ContinuousActions, DiscreteActions
from agents.fusing import fused_steps
from agents.windows import Batch
from minrnn import Backbone
from minrnn.ensemble import Ensemble, Heads
from minrnn.linear import Linear

TokenLayout = Literal["merged", "interleaved"]
ActingMode = Literal["carried", "window"]


class DecisionTransformer(nn.Module):
    """Predicts each recorded action from the return that followed, the observation and what came before.

    token_layout: `merged` is one token a step, made of (return-to-go, observation, previous action); `interleaved`
    the three tokens (return-to-go, observation, action) of the paper. condition_on_return=False is behaviour cloning.
    acting_mode: `carried` keeps the backbone's state through the episode, constant time a step; `window` looks at the
    last context_length steps anew. observation_mean, observation_std [obs_dim] and return_scale normalise inside:
    everything that goes in or out is in environment units. max_timesteps: length of the learned embedding of the
    step within the episode (later steps share the last row); None for no such embedding. observation_noise: standard
    deviation of the noise on observations while learning, in units of theirs. action_loss: what is learnt from a
    continuous action, see `agents.actions`. previous_action=False keeps the agent from seeing what it did.

    An Ensemble for a backbone makes an ensemble of the agent: members that share nothing learn from the same batches,
    each by its own loss, and act as one, by the mean of what they predict. action_loss may name one for each member.
    """

    spec: dict[str, Any]
    num_candidates = 1  # rows that acting takes for an environment

    def __init__(
        self,
        backbone: Backbone | Ensemble,
        actions: ContinuousActions | DiscreteActions,
        *,
        observation_mean: Sequence[float],
        observation_std: Sequence[float],
        return_scale: float,
        context_length: int,
        token_layout: TokenLayout,
        condition_on_return: bool,
        max_timesteps: int | None,
        acting_mode: ActingMode,
        observation_noise: float = 0.0,
        action_loss: ActionLoss | Sequence[ActionLoss] = "squared",
        previous_action: bool = True,
    ) -> None:
        super().__init__()
        self.action_losses = for_each_member("action_loss", action_loss, backbone.num_members)
        for name, value, choices in (
            ("token_layout", token_layout, TokenLayout),
            ("acting_mode", acting_mode, ActingMode),
            *(("action_loss", loss, ActionLoss) for loss in self.action_losses),
        ):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        if not (return_scale > 0 and context_length >= 1):
            raise ValueError(f"return_scale and context_length must be positive; got {return_scale}, {context_length}")
        if len(observation_mean) != len(observation_std):
            raise ValueError(f"there are {len(observation_mean)} means and {len(observation_std)} deviations")
        self.backbone, self.actions = backbone, actions
        self.context_length, self.token_layout, self.acting_mode = context_length, token_layout, acting_mode
        self.condition_on_return, self.return_scale = condition_on_return, return_scale
        self.observation_noise, self.previous_action = observation_noise, previous_action
        self.observation_mean: Tensor
        self.observation_std: Tensor
        self.register_buffer("observation_mean", torch.tensor(observation_mean), persistent=False)
        self.register_buffer("observation_std", torch.tensor(observation_std), persistent=False)
        sizes = {"return_to_go": int(condition_on_return), "observation": len(observation_mean)}
        sizes["action"] = actions.size if previous_action else 0
        if token_layout == "merged":
            self.embed = nn.ModuleDict({"step": Linear(sum(sizes.values()), backbone.hidden_size)})
        else:
            self.embed = nn.ModuleDict({k: Linear(n, backbone.hidden_size) for k, n in sizes.items() if n})
        self.embed_timestep = nn.Embedding(max_timesteps, backbone.hidden_size) if max_timesteps else None
        num_outputs = max(actions.num_outputs(loss) for loss in self.action_losses)
        self.head: Any = Linear(backbone.hidden_size, num_outputs)
        if backbone.num_members > 1:
            self.head = Heads(backbone.num_members, backbone.hidden_size, num_outputs)

    def describe(self) -> dict[str, Any]:
        """The description that `build_agent` made this agent from, with the acting mode it has now."""
        return {**self.spec, "settings": {**self.spec["settings"], "acting_mode": self.acting_mode}}

    @property
    def device(self) -> torch.device:
        return self.observation_mean.device

    # Learning

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The error of the predicted actions, averaged over real steps, and what is worth logging."""
        error = self.cloning_error(self.predict_each(self._with_noise(batch)), batch)
        loss = mean_of_real_steps(error, batch)
        return loss, {"loss": loss.detach()}

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """The parameters, in groups whose gradients are clipped each on its own."""
        return [[*self.parameters()]]

    def after_update(self) -> None:
        """What an agent does after each gradient step."""

    def cloning_error(self, predictions: Tensor, batch: Batch) -> Tensor:
        """What each step [B, K] has still to learn of its recorded action, mean over members; 0 where none is to."""
        members = zip(predictions.unbind(2), self.action_losses, strict=True)
        error = torch.stack([self.actions.loss(own, batch.actions, loss) for own, loss in members]).mean(0)
        return error if batch.imitated is None else error.masked_fill(~batch.imitated, 0.0)

    def predict(self, batch: Batch) -> Tensor:
        """What the agent predicts [B, K, num_outputs] at every step of the batch, each seeing only its past."""
        return self.predict_each(batch).mean(-2)

    def predict_each(self, batch: Batch) -> Tensor:
        """The members' action heads' outputs [B, K, members, num_outputs]."""
        returns, observations = self._normalize(batch.returns_to_go, batch.observations)
        if self.token_layout == "merged":
            tokens = [self._embed_step(returns, observations, batch.previous_actions, batch.timesteps)]
        else:
            tokens = [*self._embed_inputs(returns, observations, batch.timesteps)]
            if self.previous_action:
                tokens.append(self._embed("action", self.actions.encode(batch.actions), batch.timesteps))
        starts = None if batch.starts is None else _first_token_of(batch.starts, len(tokens))
        y, _ = self.backbone(torch.stack(tokens, dim=2).flatten(1, 2), starts=starts)
        at_observation = len(tokens) - 1 - self.action_tokens
        return self._heads(y[:, at_observation :: len(tokens)])

    def conclude(self, features: Tensor) -> Tensor:
        """The prediction [..., num_outputs] from the backbone's output [..., hidden_size]."""
        return self._heads(features).mean(-2)

    def _heads(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.head(features)
        return outputs if self.backbone.num_members > 1 else outputs.unsqueeze(-2)

    def _with_noise(self, batch: Batch) -> Batch:
        if not (self.training and self.observation_noise):
            return batch
        noise = self.observation_noise * self.observation_std * torch.randn_like(batch.observations)
        return batch._replace(observations=batch.observations + noise)

    # Acting

    def reset(self, num_envs: int, target_return: float) -> None:
        """Begins num_envs episodes, each asked to earn target_return (environment units).

        The policy of these episodes is fixed here: weights and acting mode changed later count from the next reset.
        """
        self.eval()
        self._state: Any = None
        self._past: list[Tensor] = []
        self._timestep = 0
        self._target = np.full(num_envs, target_return, np.float64)
        self._previous_actions = self.actions.none(num_envs)
        self._fused_steps = fused_steps(self, num_envs)

    @torch.inference_mode()
    def act(self, observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Actions for observations [N, obs_dim]; rewards [N] are those the last actions earned, zeros after reset."""
        self._target -= rewards
        if self._fused_steps:
            features = self._features(observations)
            predictions = [step(features) for step in self._fused_steps]
            prediction = predictions[0] if len(predictions) == 1 else np.mean(predictions, axis=0)
        else:
            prediction = self.conclude(self._advance(self._acting_tokens(observations))).cpu().numpy()
        self._previous_actions = self.actions.decide(prediction)
        self._timestep += 1
        return self._previous_actions

    def _features(self, observations: np.ndarray) -> NDArray[np.float64]:
        """What a merged token is made of, returns and observations not normalised yet."""
        parts = [self._target[:, None]] if self.condition_on_return else []
        taken = [self.actions.features(self._previous_actions)] if self.previous_action else []
        return np.concatenate([*parts, observations, *taken], axis=1)

    def _advance(self, tokens: list[Tensor]) -> Tensor:
        """The backbone's output [N, hidden_size] at the last of these new tokens, each [N, hidden_size]."""
        if self.acting_mode == "carried":
            for token in tokens:
                y, self._state = self.backbone.step(token, self._state)
            return y
        self._past = [*self._past, *tokens][-self.window_tokens :]
        y, _ = self.backbone(torch.stack(self._past, dim=1))
        return y[:, -1]

    @property
    def window_tokens(self) -> int:
        """Tokens in a full window that ends at an observation: its own action is not known yet."""
        return self.context_length * len(self.embed) - self.action_tokens

    @property
    def action_tokens(self) -> int:
        """Tokens of a step that come after its action was taken: one where actions have tokens of their own."""
        return int(self.token_layout == "interleaved" and self.previous_action)

    def _acting_tokens(self, raw_observations: np.ndarray) -> list[Tensor]:
        """The tokens that this step adds to the context."""
        to_go, observations = (
            torch.as_tensor(x, dtype=torch.float32).to(self.device) for x in (self._target, raw_observations)
        )
        timesteps = torch.full((len(observations),), self._timestep, device=self.device)
        previous_actions = torch.as_tensor(self._previous_actions, device=self.device)
        before, now = self.tokens_of_step(to_go, observations, previous_actions, timesteps)
        return now if before is None or self._timestep == 0 else [before, *now]

    def tokens_of_step(
        self, returns_to_go: Tensor, observations: Tensor, previous_actions: Tensor, timesteps: Tensor
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The token of the action just taken, where it is one of its own, and the tokens of what is known now.

        returns_to_go [N], observations [N, obs_dim], timesteps [N]; each token is [N, hidden_size]. At an episode's
        first step no action has been taken and the first token has no meaning.
        """
        returns, observations = self._normalize(returns_to_go, observations)
        if self.token_layout == "merged":
            return None, [self._embed_step(returns, observations, previous_actions, timesteps)]
        now = list(self._embed_inputs(returns, observations, timesteps))
        if not self.previous_action:
            return None, now
        return self._embed("action", self.actions.encode(previous_actions), (timesteps - 1).clamp(min=0)), now

    # Tokens

    def _normalize(self, returns_to_go: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
        scaled = (returns_to_go / self.return_scale)[..., None]
        return scaled, (observations - self.observation_mean) / self.observation_std

    def _embed_step(self, returns: Tensor, observations: Tensor, previous_actions: Tensor, timesteps: Tensor) -> Tensor:
        parts = [returns] if self.condition_on_return else []
        taken = [self.actions.encode(previous_actions)] if self.previous_action else []
        return self._embed("step", torch.cat([*parts, observations, *taken], -1), timesteps)

    def _embed_inputs(self, returns: Tensor, observations: Tensor, timesteps: Tensor) -> Sequence[Tensor]:
        parts = {"return_to_go": returns} if self.condition_on_return else {}
        return [self._embed(name, part, timesteps) for name, part in {**parts, "observation": observations}.items()]

    def _embed(self, name: str, features: Tensor, timesteps: Tensor) -> Tensor:
        token: Tensor = self.embed[name](features)
        if self.embed_timestep is None:
            return token
        return token + self.embed_timestep(timesteps.clamp(max=self.embed_timestep.num_embeddings - 1))


def for_each_member(name: str, given: Any, num_members: int) -> list[Any]:
    """What is given for all members alike, or in a list for each of them, as a list. Raises ValueError."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [given] * num_members
    if len(given) != num_members:
        raise ValueError(f"{name} must be one for all members or one for each of the {num_members}; got {given}")
    return [*given]


def mean_of_real_steps(per_step: Tensor, batch: Batch) -> Tensor:
    """Over a batch's steps [B, K] that are not padding."""
    return per_step.masked_fill(~batch.valid_mask, 0.0).sum() / batch.valid_mask.sum()


def _first_token_of(steps: Tensor, num_tokens: int) -> Tensor:
    """From a mask of steps [B, K] to one of tokens [B, K * num_tokens]."""
    return F.pad(steps[..., None], (0, num_tokens - 1)).flatten(1)
