"""Who may import whom: minrnn is usable alone, envs without torch, agents without an environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = {"envs": "torch hydra agents minrnn", "minrnn": "hydra gymnasium envs agents", "agents": "hydra gymnasium"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    root = Path(__file__).parents[1]
    modules = [f"{package}.{path.stem}" for path in (root / package).glob("[!_]*.py")]
    code = f"import sys\nfor m in {modules}: __import__(m)\nprint(set(sys.modules) & set({FORBIDDEN[package].split()}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
