"""A backbone's step without the overhead of its parts: one compiled call for all blocks. See `minrnn.kernels.step`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minrnn.backbone import Backbone
from minrnn.min_gru import MinGRU
from minrnn.min_lstm import MinLSTM


class FusedStep:
    """The step of Sequential(before, backbone, after) for a fixed number of rows, with its state.

    It works on a copy of the weights made here: changing the modules afterwards does not change it. center and scale
    [num_features]: features go in as (feature - center) / scale.
    """

    def __init__(
        self,
        before: nn.Linear,
        backbone: Backbone,
        after: nn.Linear,
        num_rows: int,
        center: NDArray[Any],
        scale: NDArray[Any],
    ) -> None:
        from minrnn.kernels import step

        self._kernel = step.step
        self._num_outputs = after.out_features
        mixer: Any = backbone.blocks[0].mixer
        state_size, inner_size = mixer.output.in_features, backbone.blocks[0].mlp[0].out_features
        num_gates = mixer.projection.out_features // state_size
        self._sizes = (backbone.hidden_size, state_size, inner_size, num_gates, int(mixer.positive))
        self._weights = np.concatenate([*_packed(before, backbone, after, step.LANE, step.DEPTH)])
        self._center, self._scale = np.float64(center), np.float64(scale)
        self._states = np.zeros((len(backbone.blocks), num_rows, state_size))
        widest = max(num_gates * state_size, inner_size)
        widths = (before.in_features, *[backbone.hidden_size] * 2, widest, state_size, after.out_features)
        self._space = [np.zeros((num_rows, _round_up(width, step.LANE)), np.float32) for width in widths]

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float32]:
        """The outputs [rows, after.out_features] for features [rows, before.in_features]; the state moves on."""
        self._kernel(features, self._center, self._scale, self._sizes, self._weights, self._states, *self._space)
        return self._space[-1][:, : self._num_outputs].copy()


def can_fuse(backbone: Backbone) -> bool:
    """Whether `FusedStep` knows this backbone: minimal RNNs in float32, with numba installed.

    Wherever its weights are, the copy of them works on the CPU: a GPU takes longer to be asked for one step.
    """
    if any(parameter.dtype != torch.float32 for parameter in backbone.parameters()):
        return False
    try:
        from minrnn.kernels import step  # noqa: F401
    except ImportError:
        return False
    known = (type(block.mixer) in (MinGRU, MinLSTM) and block.conv is None for block in backbone.blocks)
    return all(known) and len(backbone.blocks) > 0


def _packed(
    before: nn.Linear, backbone: Backbone, after: nn.Linear, lane: int, depth: int
) -> Iterator[NDArray[np.float32]]:
    """All weights in the order in which a step uses them."""
    layers: list[nn.Module] = [before]
    for block in backbone.blocks:
        layers += [block.mixer_norm, block.mixer.projection, block.mixer.output]
        layers += [block.mlp_norm, block.mlp[0], block.mlp[2]]
    for layer in [*layers, backbone.norm, after]:
        if isinstance(layer, nn.Linear):
            yield from _packed_linear(layer, lane, depth)
        else:
            yield _array(layer.weight)
            yield _array(layer.bias)


def _packed_linear(layer: nn.Linear, lane: int, depth: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    num_columns, num_inputs = _round_up(layer.out_features, lane), _round_up(layer.in_features, depth)
    weight = np.zeros((num_inputs, num_columns), np.float32)
    weight[: layer.in_features, : layer.out_features] = _array(layer.weight).T
    bias = np.zeros(num_columns, np.float32)
    bias[: layer.out_features] = _array(layer.bias)
    return weight.reshape(num_inputs, -1, lane).transpose(1, 0, 2).ravel(), bias


def _array(parameter: Any) -> NDArray[np.float32]:
    tensor: Tensor = parameter.detach()
    return tensor.cpu().numpy()


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
