"""How to learn from recorded episodes and how to act: agents, the batches they learn from, and their checkpoints."""

from agents.building import AGENTS, build_agent
from agents.checkpoint import CheckpointError, load_agent
from agents.decision_transformer import DecisionTransformer
from agents.windows import Batch, WindowSampler

__all__ = [
    "AGENTS",
    "Batch",
    "CheckpointError",
    "DecisionTransformer",
    "WindowSampler",
    "build_agent",
    "load_agent",
]
