"""The laws of a causal sequence backbone, over every mixer there is; each law rejects a mixer that breaks it.

A new mixer is tested by being in MIXERS and having a yaml: nothing here names one.
"""

import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from minrnn import MIXERS, Backbone

CONFIGS = Path(__file__).parents[1] / "configs" / "backbone"
SIZE, BATCH, TIME = 16, 3, 24


def keywords(name: str) -> dict[str, Any]:
    """The mixer's keywords as its yaml has them."""
    return dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["mixer"])


def variants() -> list[Any]:
    """Every mixer as its yaml has it, behind a convolution, and with each true, false or null keyword turned."""
    found = []
    for name in sorted(MIXERS):
        base = keywords(name)
        flips = {key: not value for key, value in base.items() if isinstance(value, bool)}
        flips |= {key: 5 for key, value in base.items() if value is None}  # a number of steps
        found += [
            pytest.param(name, base, id=name),
            pytest.param(name, {**base, "block.conv_width": 4}, id=f"{name}-conv"),
        ]
        found += [pytest.param(name, {**base, key: other}, id=f"{name}-{key}={other}") for key, other in flips.items()]
    return found


each_mixer = pytest.mark.parametrize(("name", "mixer"), variants())


def make(name: str, mixer: dict[str, Any]) -> Backbone:
    torch.manual_seed(0)
    mixer = dict(mixer)
    stack = {"num_layers": 2, "mlp_ratio": 2.0, "dropout": 0.0, "conv_width": mixer.pop("block.conv_width", None)}
    backbone = Backbone(name, hidden_size=SIZE, **stack, mixer=mixer)
    for block in backbone.blocks:
        if block.conv is not None:  # it begins as the identity, which breaks no law
            torch.nn.init.normal_(block.conv.weight)
    return backbone.double().eval()


def sequences(time: int = TIME) -> Tensor:
    return torch.randn(BATCH, time, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def starts_at(*places: tuple[int, int]) -> Tensor:
    starts = torch.zeros(BATCH, TIME, dtype=torch.bool)
    for row, step in places:
        starts[row, step] = True
    return starts


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


# The laws, each as a number that is zero up to rounding for a lawful mixer.


def break_of_causality(model: Any) -> float:
    """How much the first half of the output changes with the second half of the input."""
    x, half = sequences(), TIME // 2
    other = torch.cat([x[:, :half], sequences(TIME + 1)[:, half:TIME]], dim=1)
    return difference(model(x)[0][:, :half], model(other)[0][:, :half])


def break_of_resuming(model: Any) -> float:
    """How much a cut, or many, changes the output when the state is carried over it."""
    x = sequences()
    whole, state, chunks, at = model(x)[0], None, [], 0
    for length in (5, 1, 11, 7):
        y, state = model(x[:, at : at + length], state)
        chunks.append(y)
        at += length
    return difference(torch.cat(chunks, dim=1), whole)


def break_of_stepping(model: Any) -> float:
    """How much one step at a time differs from all at once, from the start and from the middle of a sequence."""
    x, half = sequences(), TIME // 2
    whole = model(x)[0]
    worst = 0.0
    for first, state in ((0, None), (half, model(x[:, :half])[1])):
        for t in range(first, TIME):
            y, state = model.step(x[:, t], state)
            worst = max(worst, difference(y, whole[:, t]))
    return worst


def break_of_separation(model: Any) -> float:
    """How much one row changes with the other rows, and without them."""
    x = sequences()
    other = sequences(TIME + 1)[:, :TIME].clone()
    other[1] = x[1]
    row = model(x)[0][1]
    return max(difference(row, model(other)[0][1]), difference(row, model(x[1:2])[0][0]))


def break_of_padding(model: Any) -> float:
    """How much garbage on the right, where padding stands, changes the real steps and their gradients."""
    x, real = sequences(), TIME - 7
    padded = x.clone()
    padded[:, real:] = 1e3
    gradients = []
    for inputs in (x[:, :real], padded):
        inputs = inputs.clone().requires_grad_()
        model(inputs)[0][:, :real].square().sum().backward()
        assert inputs.grad is not None
        gradients.append(inputs.grad[:, :real])
    return max(difference(model(x[:, :real])[0], model(padded)[0][:, :real]), difference(*gradients))


def break_of_packing(model: Any) -> float:
    """How much a sequence changes for sharing its row with others, cut anywhere, its state carried."""
    x, starts = sequences(), starts_at((0, 9), (1, 0), (1, 4), (1, 5), (2, TIME - 1))
    packed = model(x, starts=starts)[0]
    alone = torch.empty_like(packed)
    for row in range(BATCH):
        cuts = sorted({0, TIME, *starts[row].nonzero().flatten().tolist()})
        for begin, end in itertools.pairwise(cuts):
            alone[row, begin:end] = model(x[row : row + 1, begin:end])[0][0]
    first, state = model(x[:, :7], starts=starts[:, :7])
    second, _ = model(x[:, 7:], state, starts=starts[:, 7:])
    return max(difference(packed, alone), difference(packed, torch.cat([first, second], dim=1)))


def break_of_beginning(model: Any) -> float:
    """How much a state of fixed size changes what a sequence gives, and whether its sizes are fixed indeed."""
    x = sequences()
    whole, state = model(x)[0], model.begin(BATCH, TIME)
    shapes = [part.shape for part in tree_flatten(state)[0]]
    worst = 0.0
    for t in range(TIME):
        y, state = model.step(x[:, t], state)
        worst = max(worst, difference(y, whole[:, t]))
        assert [part.shape for part in tree_flatten(state)[0]] == shapes
    return worst


LAWS = {
    "causal": break_of_causality,
    "resumable in chunks": break_of_resuming,
    "resumable step by step": break_of_stepping,
    "separate": break_of_separation,
    "padding": break_of_padding,
    "packing": break_of_packing,
    "beginning": break_of_beginning,
}


@pytest.mark.parametrize("law", LAWS)
@each_mixer
def test_every_mixer_keeps_the_law(name: str, mixer: dict[str, Any], law: str) -> None:
    assert LAWS[law](make(name, mixer)) < 1e-10


# One mixer for each law that breaks it, and nothing but it where that can be had.


class Broken(nn.Module):
    """A causal running mean with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: Tensor, state: Any = None, *, starts: Tensor | None = None) -> tuple[Tensor, Any]:
        total = x.cumsum(dim=1)
        if self.fault in ("causal", "padding"):  # looks one step ahead, hence into the padding
            total = total + torch.cat([x[:, 1:], x[:, :1] * 0], dim=1)
        if self.fault == "separate":  # a GRU fed batch-first with batch_first=False does this
            total = x.cumsum(dim=0)
        if state is not None and self.fault != "resumable in chunks":
            total = total + state[:, None]
        last = total[:, -1] * (0.5 if self.fault == "resumable in chunks" else 1.0)
        return total, last

    def begin(self, num_rows: int, num_steps: int) -> Tensor:
        return torch.full((num_rows, SIZE), 1e-3 if self.fault == "beginning" else 0.0, dtype=torch.float64)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.forward(x[:, None], state)
        return y[:, 0] + (1e-3 if self.fault == "resumable step by step" else 0.0), state


@pytest.mark.parametrize("law", LAWS)
def test_the_law_rejects_a_mixer_that_breaks_it(law: str) -> None:
    assert LAWS[law](Broken(law)) > 1e-4


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_the_yaml_of_a_backbone_holds_its_name_and_exactly_its_keywords(name: str) -> None:
    found = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert found["name"] == name
    assert set(found["mixer"]) == set(inspect.signature(MIXERS[name]).parameters) - {"hidden_size"}


def test_every_backbone_yaml_names_a_mixer() -> None:
    assert {path.stem for path in CONFIGS.glob("[!_]*.yaml")} == set(MIXERS)


def test_an_unknown_mixer_is_refused_with_its_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"got 'mingru'\. Did you mean 'min_gru'"):
        Backbone("mingru", hidden_size=8, num_layers=1, mlp_ratio=2.0, dropout=0.0, mixer={})
