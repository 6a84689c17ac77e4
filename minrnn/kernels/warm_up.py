"""python -m minrnn.kernels.warm_up: compile every CPU kernel once and keep the machine code beside the source."""

import torch

from minrnn import scan


def warm_up() -> None:
    """Run each kernel forward and backward on a tiny input, for every set of argument types it meets in use."""
    for function, num_gates in ((scan.min_gru, 2), (scan.min_lstm, 3)):
        projection = torch.zeros(1, 2, num_gates, requires_grad=True)
        function(projection).sum().backward()


if __name__ == "__main__":
    warm_up()
