"""The fused step is the parallel form, one step at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import BACKBONES, new_agent, recorded

from agents import fusing
from minrnn import MIXERS, Backbone
from minrnn.stepping import FusedStep, can_fuse

SIZES = {"usual": (64, 1.5, 4.0), "uneven": (20, 1.3, 1.7), "wide state": (8, 9.0, 1.0)}


def new_backbone(name: str, size: str = "usual", positive: bool = False) -> Backbone:
    torch.manual_seed(0)
    hidden_size, expansion, mlp_ratio = SIZES[size]
    mixer = {"expansion": expansion, "positive": positive, "memory_length": None}
    stack = {"hidden_size": hidden_size, "num_layers": 3, "mlp_ratio": mlp_ratio, "dropout": 0.5}
    return Backbone(name, **stack, mixer=mixer).eval()


@pytest.mark.parametrize("num_rows", [1, 2, 5])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_a_thousand_steps_are_those_of_the_parallel_form(name: str, size: str, positive: bool, num_rows: int) -> None:
    backbone = new_backbone(name, size, positive)
    before, after = nn.Linear(7, backbone.hidden_size), nn.Linear(backbone.hidden_size, 3)
    rng = np.random.default_rng(0)
    center, scale = rng.normal(size=7), rng.uniform(0.1, 9, 7)
    features = rng.normal(size=(1000, num_rows, 7)) * scale + center
    fused = FusedStep(before, backbone, after, num_rows, center, scale)
    with torch.no_grad():
        normalized = torch.from_numpy(((features - center) / scale).astype(np.float32))
        expected = after(backbone(before(normalized).transpose(0, 1))[0]).transpose(0, 1).numpy()
    found = np.stack([fused(step) for step in features])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_it_keeps_the_weights_it_was_made_with() -> None:
    backbone, before, after = new_backbone("min_gru"), nn.Linear(2, 64), nn.Linear(64, 1)
    first, second = (FusedStep(before, backbone, after, 1, np.zeros(2), np.ones(2)) for _ in range(2))
    expected = first(np.ones((1, 2)))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert second(np.ones((1, 2))) == expected


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_minimal_rnns_can_be_fused_and_others_cannot(name: str) -> None:
    backbone = new_agent(recorded(), name).backbone
    assert can_fuse(backbone) == (name in ("min_gru", "min_lstm"))
    assert not can_fuse(backbone.to(torch.float64))


@pytest.mark.parametrize("condition_on_return", [False, True])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) & {"min_gru", "min_lstm"}))
def test_an_agent_acts_the_same_with_and_without_it(
    backbone: str, discrete: bool, condition_on_return: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = recorded(discrete=discrete)
    agent = new_agent(episodes, backbone, condition_on_return=condition_on_return)

    def play() -> np.ndarray:
        agent.reset(3, 5.0)
        rng = np.random.default_rng(0)
        return np.stack([agent.act(rng.normal(5, 3, (3, 4)), rng.normal(size=3)) for _ in range(40)])

    fused = play()
    monkeypatch.setattr(fusing, "can_fuse", lambda _: False)
    np.testing.assert_allclose(fused, play(), rtol=0, atol=1e-5)


PLAYS = """
import hashlib, numpy as np, torch
from torch import nn
from minrnn import Backbone
from minrnn.stepping import FusedStep

torch.manual_seed(0)
mixer = {"expansion": 1.5, "positive": False, "memory_length": None}
backbone = Backbone("min_gru", hidden_size=16, num_layers=1, mlp_ratio=4.0, dropout=0.0, conv_width=None, mixer=mixer)
for parameter in backbone.parameters():  # gains of one and biases of zero hide how things are rounded
    nn.init.normal_(parameter, std=0.5)
rng = np.random.default_rng(0)
center, scale = rng.standard_normal(15), rng.uniform(0.5, 3, 15)
step = FusedStep(nn.Linear(15, 16), backbone, nn.Linear(16, 3), 1, center, scale)
found = [step(rng.standard_normal((1, 15))).tobytes() for _ in range(300)]
print(hashlib.sha256(b"".join(found)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.fault("a process that compiles the kernels, and one that finds them compiled")
def test_a_process_that_compiles_acts_as_one_that_finds_the_code(tmp_path: Path) -> None:
    """A run that is resumed finds in the cache what its first process compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", PLAYS], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert [*tmp_path.rglob("*.nbc")]
    assert said[0] == said[1]
