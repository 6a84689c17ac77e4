"""python -m minrnn.kernels.warm_up: compile every CPU kernel once and keep the machine code beside the source."""

import numpy as np
import torch
from torch import nn

from minrnn import Backbone, scan
from minrnn.activation import GELU
from minrnn.dropout import DroppedSum
from minrnn.selective import selective_scan
from minrnn.stepping import FusedStep


def warm_up() -> None:
    """Run each kernel forward and backward on a tiny input, for every set of argument types it meets in use."""
    for function, num_gates in ((scan.min_gru, 2), (scan.min_lstm, 3)):
        projection = torch.zeros(1, 2, num_gates, requires_grad=True)
        function(projection).sum().backward()
    x, states = torch.zeros(1, 2, 1, requires_grad=True), torch.zeros(1, 2, 1)
    selective_scan(x, x, torch.ones(1, 1), states, states)[0].sum().backward()
    GELU()(torch.zeros(1, 1, requires_grad=True)).sum().backward()
    DroppedSum(0.5)(torch.zeros(1, 1), torch.zeros(1, 1, requires_grad=True)).sum().backward()
    for name in ("min_gru", "min_lstm"):
        mixer = {"expansion": 1.0, "positive": False, "memory_length": None}
        backbone = Backbone(name, hidden_size=8, num_layers=1, mlp_ratio=1.0, dropout=0.0, mixer=mixer)
        FusedStep(nn.Linear(1, 8), backbone, nn.Linear(8, 1), 1, np.zeros(1), np.ones(1))(np.zeros((1, 1)))


if __name__ == "__main__":
    warm_up()
