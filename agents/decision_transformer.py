"""The decision transformer (Chen et al. 2021) over any causal backbone: act so as to earn the return asked for."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from agents.actions import ContinuousActions, DiscreteActions
from agents.windows import Batch
from envs.episodes import Episodes
from minrnn import Backbone

TokenLayout = Literal["merged", "interleaved"]
ActingMode = Literal["carried", "window"]


class DecisionTransformer(nn.Module):
    """Predicts each recorded action from the return that followed, the observation and what came before.

    token_layout: `merged` is one token a step, made of (return-to-go, observation, previous action); `interleaved`
    the three tokens (return-to-go, observation, action) of the paper. condition_on_return=False is behaviour cloning.
    acting_mode: `carried` keeps the backbone's state through the episode, constant time a step; `window` looks at the
    last context_length steps anew. observation_mean, observation_std [obs_dim] and return_scale normalise inside:
    everything that goes in or out is in environment units. max_timesteps: length of the learned embedding of the
    step within the episode (later steps share the last row); None for no such embedding.
    """

    spec: dict[str, Any]

    def __init__(
        self,
        backbone: Backbone,
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
    ) -> None:
        super().__init__()
        self.backbone, self.actions = backbone, actions
        self.context_length, self.token_layout, self.acting_mode = context_length, token_layout, acting_mode
        self.condition_on_return, self.return_scale = condition_on_return, return_scale
        self.observation_mean: Tensor
        self.observation_std: Tensor
        self.register_buffer("observation_mean", torch.tensor(observation_mean), persistent=False)
        self.register_buffer("observation_std", torch.tensor(observation_std), persistent=False)
        sizes = {"return": int(condition_on_return), "observation": len(observation_mean), "action": actions.size}
        if token_layout == "merged":
            self.embed = nn.ModuleDict({"step": nn.Linear(sum(sizes.values()), backbone.hidden_size)})
        else:
            self.embed = nn.ModuleDict({k: nn.Linear(n, backbone.hidden_size) for k, n in sizes.items() if n})
        self.embed_timestep = nn.Embedding(max_timesteps, backbone.hidden_size) if max_timesteps else None
        self.head = nn.Linear(backbone.hidden_size, actions.size)

    def describe(self) -> dict[str, Any]:
        """The description that `build_agent` made this agent from, with the acting mode it has now."""
        return {**self.spec, "settings": {**self.spec["settings"], "acting_mode": self.acting_mode}}

    @property
    def device(self) -> torch.device:
        return self.observation_mean.device

    # Learning

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The error of the predicted actions, averaged over real steps, and what is worth logging."""
        per_step = self.actions.loss(self.predict(batch), batch.actions)
        loss = per_step.masked_fill(~batch.valid_mask, 0.0).sum() / batch.valid_mask.sum()
        return loss, {"loss": loss.detach()}

    def predict(self, batch: Batch) -> Tensor:
        """The action head's output [B, K, actions.size] at every step of the batch, each seeing only its past."""
        returns, observations = self._normalize(batch.returns_to_go, batch.observations)
        if self.token_layout == "merged":
            tokens = [self._embed_step(returns, observations, batch.previous_actions, batch.timesteps)]
        else:
            tokens = [*self._embed_inputs(returns, observations, batch.timesteps)]
            tokens.append(self._embed("action", self.actions.encode(batch.actions), batch.timesteps))
        y, _ = self.backbone(torch.stack(tokens, dim=2).flatten(1, 2))
        at_observation = 0 if self.token_layout == "merged" else len(tokens) - 2
        return self.head(y[:, at_observation :: len(tokens)])

    # Acting

    def reset(self, num_envs: int, target_return: float) -> None:
        """Begins num_envs episodes, each asked to earn target_return (environment units)."""
        self.eval()
        self._state: Any = None
        self._past: list[Tensor] = []
        self._timestep = 0
        self._target = torch.full((num_envs,), float(target_return), dtype=torch.float64)
        self._previous_actions = self.actions.none(num_envs)

    @torch.inference_mode()
    def act(self, observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Actions for observations [N, obs_dim]; rewards [N] are those the last actions earned, zeros after reset."""
        self._target -= torch.as_tensor(rewards, dtype=torch.float64)
        y = self._advance(self._acting_tokens(torch.as_tensor(observations, dtype=torch.float32)))
        actions = self.actions.decide(self.head(y))
        self._previous_actions = actions
        self._timestep += 1
        return actions.cpu().numpy()

    def _advance(self, tokens: list[Tensor]) -> Tensor:
        """The backbone's output [N, hidden_size] at the last of these new tokens, each [N, hidden_size]."""
        if self.acting_mode == "carried":
            for token in tokens:
                y, self._state = self.backbone.step(token, self._state)
            return y
        self._past = [*self._past, *tokens][-self._window_tokens :]
        y, _ = self.backbone(torch.stack(self._past, dim=1))
        return y[:, -1]

    @property
    def _window_tokens(self) -> int:
        """Tokens in a full window that ends at an observation: its own action is not known yet."""
        return self.context_length if self.token_layout == "merged" else self.context_length * len(self.embed) - 1

    def _acting_tokens(self, observations: Tensor) -> list[Tensor]:
        """The tokens that this step adds: in the interleaved layout the action just taken comes first."""
        target = self._target.to(self.device, torch.float32)
        returns, observations = self._normalize(target, observations.to(self.device))
        timesteps = torch.full((len(observations),), self._timestep, device=self.device)
        if self.token_layout == "merged":
            return [self._embed_step(returns, observations, self._previous_actions, timesteps)]
        tokens = list(self._embed_inputs(returns, observations, timesteps))
        if self._timestep == 0:
            return tokens
        return [self._embed("action", self.actions.encode(self._previous_actions), timesteps - 1), *tokens]

    # Tokens

    def _normalize(self, returns_to_go: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
        scaled = (returns_to_go / self.return_scale)[..., None]
        return scaled, (observations - self.observation_mean) / self.observation_std

    def _embed_step(self, returns: Tensor, observations: Tensor, previous_actions: Tensor, timesteps: Tensor) -> Tensor:
        parts = [returns] if self.condition_on_return else []
        return self._embed(
            "step", torch.cat([*parts, observations, self.actions.encode(previous_actions)], -1), timesteps
        )

    def _embed_inputs(self, returns: Tensor, observations: Tensor, timesteps: Tensor) -> Sequence[Tensor]:
        parts = {"return": returns} if self.condition_on_return else {}
        return [self._embed(name, part, timesteps) for name, part in {**parts, "observation": observations}.items()]

    def _embed(self, name: str, features: Tensor, timesteps: Tensor) -> Tensor:
        token: Tensor = self.embed[name](features)
        if self.embed_timestep is None:
            return token
        return token + self.embed_timestep(timesteps.clamp(max=self.embed_timestep.num_embeddings - 1))


def observation_statistics(episodes: Episodes) -> dict[str, list[float]]:
    """Mean and standard deviation of each observation column, as the agent's keywords; constant columns get 1."""
    mean = episodes.observations.mean(axis=0, dtype=np.float64)
    std = episodes.observations.std(axis=0, dtype=np.float64)
    return {"observation_mean": mean.tolist(), "observation_std": np.where(std < 1e-6, 1.0, std).tolist()}
