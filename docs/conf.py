"""The site: make docs. Pages are Markdown; the reference of configs and of the API is made from the code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
CONFIGS = DOCS.parent / "configs"
sys.path.insert(0, str(DOCS.parent))

project = "minRNN-RL"
author = "The minRNN-RL authors"
copyright = "2026, The minRNN-RL authors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
highlight_language = "text"
html_theme = "furo"
html_title = "minRNN-RL"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "code"  # docstrings quote code in single backticks

GROUPS = {
    "": "Commands",
    "agent": "agent=",
    "backbone": "backbone=",
    "task": "task=",
    "experiment": "experiment=",
    "launcher": "+launcher=",
    "scaled": "What an experiment changes for one backbone",
}


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda _: write_configuration())


def write_configuration() -> None:
    """docs/configuration.md: every yaml as it is, its comments being the reference."""
    lines = [
        "# Configuration",
        "",
        "Every key with its default, from `configs/`. `KEY=VALUE` on the command line changes one, `GROUP=NAME`",
        "chooses a file of a group; a misspelt one is answered with its nearest neighbour. `--cfg job` prints what a",
        "command line comes to, `-m seed=0,1,2` runs a sweep.",
    ]
    for folder, title in GROUPS.items():
        lines += ["", f"## {title}"]
        for path in sorted((CONFIGS / folder).glob("*.yaml")):
            lines += ["", f"### {path.stem}", "", "```yaml", path.read_text(encoding="utf-8").strip(), "```"]
    (DOCS / "configuration.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
