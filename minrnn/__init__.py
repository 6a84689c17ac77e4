"""Minimal RNNs and their rivals as swappable causal sequence backbones. Knows nothing of reinforcement learning.

from minrnn import Backbone
backbone = Backbone("min_gru", hidden_size=64, num_layers=3, mlp_ratio=4.0, dropout=0.1,
                    mixer={"expansion": 1.5, "positive": False, "memory_length": None})
y, state = backbone(x)              # x and y [batch, time, hidden_size]
y_next, state = backbone.step(x_next, state)
"""

from minrnn.backbone import MIXERS, Backbone, Block
from minrnn.ensemble import Ensemble

__all__ = ["MIXERS", "Backbone", "Block", "Ensemble"]
