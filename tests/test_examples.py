"""What a reader is shown runs as it stands: the notebook, and the mixer that the docs write out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
import yaml

from minrnn import MIXERS, Backbone

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "library.ipynb"


def test_the_notebook_trains_evaluates_and_plots() -> None:
    mpl.use("agg")
    import matplotlib.pyplot as plt

    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) == 10
    assert all(not cell.get("outputs") for cell in cells)
    space: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("num_steps = 1500", "num_steps = 12")
            exec(compile(source, str(NOTEBOOK), "exec"), space)
    assert len(space["losses"]) == 12
    assert space["losses"][-1] < space["losses"][0]
    assert len(space["played"].returns) == 20
    assert np.isfinite(space["score"]["mean"])
    assert len(plt.get_fignums()) == 3
    plt.close("all")


def test_the_mixer_of_the_docs_trains_resumes_and_separates(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    space: dict[str, Any] = {}
    exec(code_block(page, "python"), space)
    config = yaml.safe_load(code_block(page, "yaml"))
    stack = yaml.safe_load((ROOT / "configs" / "backbone" / "_stack.yaml").read_text(encoding="utf-8"))
    assert config.pop("defaults") == ["_stack", "_self_"]
    monkeypatch.setitem(MIXERS, config["name"], space["Average"])
    backbone = Backbone(**{**stack, **config, "hidden_size": 8, "dropout": 0.0})
    x = torch.randn(2, 9, 8)
    whole, _ = backbone(x)
    first, state = backbone(x[:, :4])
    rest, _ = backbone(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    state = backbone.begin(2, 9)
    for step in range(9):
        y, state = backbone.step(x[:, step], state)
        torch.testing.assert_close(y, whole[:, step])
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[:, 4] = True
    torch.testing.assert_close(backbone(x, starts=starts)[0][:, 4:], backbone(x[:, 4:])[0])


def code_block(page: str, language: str) -> str:
    """The first block of this language, which stands indented in a list."""
    lines = page.partition(f"```{language}\n")[2].partition("```")[0].splitlines()
    return "\n".join(line.removeprefix("   ") for line in lines)
