"""The standing comparison is printed from what is there, and says what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_cells_that_are_missing_are_printed_as_missing(tmp_path: Path) -> None:
    for backbone, score in (("min_gru", 50.0), ("gru", 40.0)):
        for seed in range(2):
            cell = tmp_path / "runs" / "hopper_medium" / f"{backbone}-seed{seed}"
            cell.mkdir(parents=True)
            about = {"env_id": "Hopper-v5", "dataset": {"sha256": "ab" * 32, "mean_return": 100.0}}
            results = {
                "score": {"mean": score + seed},
                "seconds": {"training": 3.0, "evaluation": 1.0},
                "weights": {"num_parameters": 7},
                "protocol": {"target_return": 3600.0},
                "provenance": about,
            }
            (cell / "results.json").write_text(json.dumps(results))
    command = [sys.executable, "benchmarks/standing_comparison.py", "--only-print", "--seeds", "2", "--first-seed", "0"]
    command += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "page.md")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "page.md").read_text()
    assert "**68 of 72 runs are missing.**" in page
    assert "| hopper medium | 50.5 [50.0, 51.0] (n = 2) | missing | 40.5 [40.0, 41.0] (n = 2) |" in page
    assert "| hopper medium | 0 | 50.0 | missing | 40.0 | missing | missing |" in page
    assert "| hopper demo | embedded | missing |" in page
    assert "missing: min_gru has not run on every set" in page
