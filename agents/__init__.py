"""How to learn from recorded episodes and how to act: agents, the batches they learn from, and their checkpoints."""

from agents.actions import ContinuousActions, DiscreteActions
from agents.building import AGENTS, build_agent
from agents.checkpoint import CheckpointError, load_agent
from agents.decision_transformer import DecisionTransformer
from agents.learner import Learner
from agents.normalization import observation_statistics
from agents.windows import Batch, WindowSampler

__all__ = [
    "AGENTS",
    "Batch",
    "CheckpointError",
    "ContinuousActions",
    "DecisionTransformer",
    "DiscreteActions",
    "Learner",
    "WindowSampler",
    "build_agent",
    "load_agent",
    "observation_statistics",
]
