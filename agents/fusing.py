"""An agent's decision as one compiled call a member, where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from minrnn.ensemble import Ensemble, side_by_side
from minrnn.stepping import FusedStep, can_fuse

if TYPE_CHECKING:
    from agents.decision_transformer import DecisionTransformer


def fused_steps(agent: DecisionTransformer, num_rows: int) -> list[FusedStep]:
    """A call for each member; none where there is none, which takes a merged token and a minimal RNN."""
    together = isinstance(agent.backbone, Ensemble)
    members: Any = agent.backbone.members if together else [agent.backbone]
    heads: Any = agent.head.members if together else [agent.head]
    one_token = agent.token_layout == "merged" and agent.embed_timestep is None
    if not one_token or agent.acting_mode != "carried" or not all(can_fuse(member) for member in members):
        return []
    parts = [(agent.observation_mean, agent.observation_std)]
    if agent.previous_action:
        parts.append((torch.zeros(agent.actions.size), torch.tensor(1.0)))
    if agent.condition_on_return:
        parts.insert(0, (torch.zeros(1), torch.tensor(agent.return_scale)))
    center = torch.cat([center.cpu() for center, _ in parts]).numpy()
    scale = torch.cat([scale.expand_as(center).cpu() for center, scale in parts]).numpy()
    embed: Any = agent.embed["step"]
    return [
        FusedStep(before, member, head, num_rows, center, scale)
        for before, member, head in zip(side_by_side(embed, len(members)), members, heads, strict=True)
    ]
