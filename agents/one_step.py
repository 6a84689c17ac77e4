"""An agent's policy as a pure function of one step: (observation, reward, state) -> (action, state), all tensors.

Everything the agent adds to its network is inside: normalisation, the arithmetic of returns, the bounds of actions. So
what is exported of it needs no Python of ours; a robot multiplies matrices and hands the state back.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from agents.actions import ContinuousActions
from agents.decision_transformer import DecisionTransformer


class StatePart(NamedTuple):
    """One tensor of the state: its name and what it holds before an episode, one value throughout."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: float


class OneStepPolicy(nn.Module):
    """forward(observations [N, obs_dim], rewards [N], *state) -> (actions, *state), for N rows and num_steps steps.

    rewards are those of the last actions, zeros at first. The state: the return still to be earned, float64 [N]; the
    step [1]; the last actions; and the backbone's own, or in window mode the last tokens. step_by_step: a window is
    gone through one step after the other, for backbones whose parallel form a format cannot hold.
    """

    def __init__(
        self, agent: DecisionTransformer, *, num_rows: int, num_steps: int, step_by_step: bool = False
    ) -> None:
        super().__init__()
        self.agent = agent.eval()
        self.num_rows, self.step_by_step = num_rows, step_by_step
        self._choices = num_rows * agent.num_candidates  # of each row, as many as its agent chooses among
        tokens_a_step = len(agent.embed) if agent.token_layout == "interleaved" else 1
        if agent.acting_mode == "carried":
            memory = agent.backbone.begin(self._choices, num_steps * tokens_a_step)
        else:
            size = agent.backbone.hidden_size
            memory = (torch.zeros(self._choices, agent.window_tokens, size), torch.zeros(1, dtype=torch.long))
        self._memory, self._layout = tree_flatten(memory)

    def begin(self, target_return: float) -> list[StatePart]:
        """What each tensor of the state is before an episode that is to earn target_return."""
        actions = torch.from_numpy(self.agent.actions.none(self.num_rows))
        first = {
            "return_to_go": torch.full((self.num_rows,), target_return, dtype=torch.float64),
            "step": torch.zeros(1, dtype=torch.long),
            "previous_actions": actions,
        }
        tensors = {**first, **{f"memory_{index}": tensor for index, tensor in enumerate(self._memory)}}
        return [StatePart(name, tuple(x.shape), x.dtype, float(x.flatten()[0])) for name, x in tensors.items()]

    def forward(
        self, observations: Tensor, rewards: Tensor, to_go: Tensor, step: Tensor, actions: Tensor, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        to_go = to_go - rewards.double()
        agent: Any = self.agent
        if agent.num_candidates == 1:
            features, state = self._advance(to_go.float(), observations, actions, step, list(memory))
            actions = self._decide(agent.conclude(features))
            return actions, to_go, step + 1, actions, *state
        asked = to_go[:, None] * torch.from_numpy(agent.candidate_returns)
        rows, taken = (x.repeat_interleave(agent.num_candidates, 0) for x in (observations, actions))
        features, state = self._advance(asked.flatten().float(), rows, taken, step, list(memory))
        actions = agent.choose(observations, self._decide(agent.conclude(features)))
        return actions, to_go, step + 1, actions, *state

    def _advance(
        self, to_go: Tensor, observations: Tensor, actions: Tensor, step: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The backbone's output at this step's last token, and the memory after it."""
        take = self._step if self.agent.acting_mode == "carried" else self._append
        before, now = self.agent.tokens_of_step(to_go, observations, actions, step.expand(self._choices))
        if before is not None:  # the token of an action, which there is none of at the first step
            after = take(before, memory)[1]
            memory = [torch.where(step > 0, new, old) for new, old in zip(after, memory, strict=True)]
        for token in now:
            y, memory = take(token, memory)
        return (self._last_output(memory) if y is None else y), memory

    def _step(self, token: Tensor, memory: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
        y, state = self.agent.backbone.step(token, tree_unflatten(memory, self._layout))
        return y, tree_flatten(state)[0]

    def _append(self, token: Tensor, memory: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
        """The window with one more token at its end, the first one gone if it was full."""
        tokens, count = memory
        tokens = torch.where(count >= tokens.shape[1], tokens.roll(-1, 1), tokens)
        here = torch.arange(tokens.shape[1]) == count.clamp(max=tokens.shape[1] - 1)
        return None, [torch.where(here[None, :, None], token[:, None], tokens), (count + 1).clamp(max=tokens.shape[1])]

    def _last_output(self, memory: list[Tensor]) -> Tensor:
        """At the window's last token, which does not see what stands to the right of it: backbones are causal."""
        tokens, count = memory
        outputs = self._outputs_step_by_step(tokens) if self.step_by_step else self.agent.backbone(tokens)[0]
        here = torch.arange(tokens.shape[1]) == count - 1
        return torch.where(here[None, :, None], outputs, 0.0).sum(1)

    def _outputs_step_by_step(self, tokens: Tensor) -> Tensor:
        state, outputs = self.agent.backbone.begin(self._choices, tokens.shape[1]), []
        for token in tokens.unbind(1):
            y, state = self.agent.backbone.step(token, state)
            outputs.append(y)
        return torch.stack(outputs, dim=1)

    def _decide(self, prediction: Tensor) -> Tensor:
        actions: Any = self.agent.actions
        if not isinstance(actions, ContinuousActions):
            return prediction.argmax(-1)
        return actions.center + actions.half_range * actions.squash(prediction)
