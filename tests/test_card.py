"""A model card says what the run's own files say, and a hub can read its head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from test_reports import make_run

import report
from reports.card import card
from reports.runs import read_run


def test_the_card_says_what_the_run_says(tmp_path: Path) -> None:
    run = make_run(tmp_path, seed=3, level=100.0)
    report.main([str(run), "--card", "--licence", "mit"])
    text = (run / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["license"] == "mit"
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 104.5
    assert result["metrics"][1]["value"] == 52.25
    assert result["dataset"] == {"name": "toy<data>", "type": "Toy-v0"}
    for said in (
        "| normalised score | 52.2 (95 % interval 51.2 to 53.2 over episodes) |",
        "| return | mean 104.5, lowest 103.0, highest 106.0 |",
        "| asked for | target return 150 (declared before training) |",
        "a return of 0 and of 200: somebody",
        "seed 3",
        "ab" * 32,
        "- dropped & said",
        "target_return=150",
    ):
        assert said in body


def test_what_was_not_measured_is_said_not_made_up(tmp_path: Path) -> None:
    reason = "no reference scores for this environment"
    score = {"mean": None, "ci_low": None, "ci_high": None, "reason": reason}
    unscored = make_run(tmp_path / "a", score=score, provenance__reference=None)
    text = card(read_run(unscored), None)
    assert f"| normalised score | none: {reason} |" in text
    assert "d4rl_score" not in text
    assert "license: other" in text
    unplayed = make_run(tmp_path / "b", score={**score, "reason": "not evaluated"}, returns=[], provenance__env_id=None)
    text = card(read_run(unplayed), None)
    assert "not evaluated" in text
    assert "model-index" not in text


def test_a_run_that_is_not_finished_gets_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, running = make_run(tmp_path, seed=0), make_run(tmp_path, seed=1)
    (running / "results.json").unlink()
    with pytest.raises(SystemExit):
        report.main([str(tmp_path), "--card"])
    assert (done / "README.md").is_file()
    assert not (running / "README.md").exists()
    assert "not finished" in capsys.readouterr().err
    assert json.loads((done / "results.json").read_bytes())
