"""The notebook runs from its first cell to its last, as a reader would run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "library.ipynb"


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
