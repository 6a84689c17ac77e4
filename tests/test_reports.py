"""A page says what the runs say, whole, and survives runs that say nothing."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import report
from reports import figures
from reports.figures import learning_curves, profiles, score_bars
from reports.page import write_page
from reports.runs import find_runs, group_runs, short_names

REFERENCE = {"min": 0.0, "max": 200.0, "source": "somebody", "of": "return"}


def make_run(folder: Path, *, seed: int = 0, backbone: str = "min_gru", level: float = 100.0, **changes: Any) -> Path:
    """A finished run of four episodes around this return."""
    path = folder / f"{backbone}-seed{seed}"
    path.mkdir(parents=True)
    returns = [level + seed + episode for episode in range(4)]
    config = {
        "seed": seed,
        "backbone": {"name": backbone},
        "agent": {"name": "decision_transformer", "token_layout": "merged", "top_fraction": 1.0, "top_return": None},
        "train": {"num_steps": 20},
    }
    dataset = {
        "id": "toy<data>",
        "sha256": "ab" * 32,
        "recorded_in": "Toy-v0",
        "obs_dim": 3,
        "notes": ["dropped & said"],
        "num_episodes": 9,
        "num_steps": 99,
        "mean_return": 50.0,
        "percentile_90_return": 80.0,
        "best_return": 120.0,
        "return_histogram": {"edges": [0.0, 60.0, 120.0], "counts": [5, 4]},
    }
    mean = sum(returns) / 8
    results: dict[str, Any] = {
        "score": {"mean": mean, "ci_low": mean - 1, "ci_high": mean + 1, "std": 1.0, "n": 4, "reason": None},
        "failures": [],
        "success_rate": None,
        "returns": returns,
        "lengths": [10] * 4,
        "protocol": {
            "checkpoint": "last",
            "target_return": 150.0,
            "target_declared_before_training": True,
            "acting_mode": "carried",
            "num_episodes": 4,
            "first_seed": 0,
        },
        "provenance": {
            "env_id": "Toy-v0",
            "env_kwargs": {},
            "env_declared": False,
            "target_return": 150.0,
            "max_episode_steps": 10,
            "actions": {"num_actions": 2},
            "physics": "toy 1.0",
            "reference": REFERENCE,
            "dataset": dataset,
        },
        "seconds": {"training": 12.0, "evaluation": 2.0, "environments": 1.0},
        "peak_memory_mb": 321.0,
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        results[part] = {**results[part], name: value} if name else value
    rows = [{"step": step, "train/loss": 1 / step} for step in (5, 10, 20)]
    rows += [{"step": step, "score/return_mean": level, "score/normalized": level / 2} for step in (10, 20)]
    (path / "config.json").write_text(json.dumps(config))
    (path / "results.json").write_text(json.dumps(results))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def page_of(tmp_path: Path, *places: Path) -> str:
    out = tmp_path / "page" / "report.html"
    write_page(find_runs(places), out)
    return out.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Every tag that opens is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_runs_page_holds_its_score_and_what_it_rests_on(tmp_path: Path) -> None:
    page = page_of(tmp_path, make_run(tmp_path))
    for part in (
        "min_gru, decision transformer on toy&lt;data&gt; in Toy-v0",
        "50.8 [49.8, 51.8]",
        "2 times the data&#39;s mean of 50",
        "ab" * 32,
        "toy 1.0",
        "0 is 0, 100 is 200 (somebody)",
        "dropped &amp; said",
        "declared before training",
        "321 MB",
        "25,000 µs",
        "random policy",
    ):
        assert part in page, part
    assert page.count("<svg") == 2
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_a_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = page_of(tmp_path, make_run(tmp_path))
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', without_names) == []
    assert "<script" not in page


def test_a_comparison_says_who_is_better_by_how_much_and_how_sure_that_is(tmp_path: Path) -> None:
    for seed in range(4):
        make_run(tmp_path / "runs", seed=seed)
        make_run(tmp_path / "runs", seed=seed, backbone="gru", level=60.0 + 3 * seed)
    page = page_of(tmp_path, tmp_path / "runs")
    assert "min_gru, decision transformer scores highest, 51.5" in page
    assert "next is gru, decision transformer, 33.8" in page
    assert "Paired by seed it leads by 17.8 [" in page
    assert "a difference that the seeds support" in page
    assert page.count("<svg") == 4  # scores, curves, returns, profile


def test_three_seeds_are_too_few_to_be_sure(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / "runs", seed=seed)
        make_run(tmp_path / "runs", seed=seed, backbone="gru", level=60.0)
    assert "a lead, but 3 seeds are too few to be sure of it" in page_of(tmp_path, tmp_path / "runs")


def test_close_scores_are_not_called_a_difference(tmp_path: Path) -> None:
    for seed in range(4):
        make_run(tmp_path / "runs", seed=seed, level=100.0 + (-1) ** seed * 20)
        make_run(tmp_path / "runs", seed=seed, backbone="gru", level=99.0)
    assert "these seeds do not show a difference" in page_of(tmp_path, tmp_path / "runs")


def test_runs_of_another_protocol_are_not_one_mean_without_a_word(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", seed=0)
    make_run(tmp_path / "runs", seed=1, protocol__target_return=99.0)
    page = page_of(tmp_path, tmp_path / "runs")
    assert "the runs differ in protocol, data or physics: their mean says little" in page


def test_without_reference_scores_there_are_raw_returns_and_a_reason(tmp_path: Path) -> None:
    nothing = {"mean": None, "ci_low": None, "ci_high": None, "std": None, "n": 4, "reason": "no reference scores"}
    run = make_run(tmp_path, score=nothing, provenance__reference=None)
    page = page_of(tmp_path, run)
    assert "none: no reference scores" in page
    assert "return of 102" in page
    assert "normalised score is" not in page


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"earliest_of": 3}, "earliest of 3 windows"),
        ({"action_loss": "likelihood"}, "loss likelihood"),
        ({"num_members": 2, "action_loss": ["squared", "likelihood"]}, "2 members, loss squared, likelihood"),
    ],
)
def test_runs_that_learn_otherwise_are_another_method(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    paths = [make_run(tmp_path / name) for name in ("alike", "other")]
    config = json.loads((paths[1] / "config.json").read_bytes())
    config["agent"] |= settings
    (paths[1] / "config.json").write_text(json.dumps(config))
    methods = [group.method for group in group_runs(find_runs(paths))]
    assert methods == ["min_gru, decision transformer", f"min_gru, decision transformer, {said}"]


def test_methods_of_many_words_leave_room_for_the_curves(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name) for name in ("one", "ensemble")]
    for path, members in zip(paths, (1, 3), strict=True):
        config = json.loads((path / "config.json").read_bytes())
        config["agent"] |= {"name": "filtered_bc", "top_fraction": 0.1, "top_return": 0.5, "earliest_of": 3}
        config["agent"] |= {"num_members": members, "action_loss": ["squared", "likelihood", "likelihood"][:members]}
        (path / "config.json").write_text(json.dumps(config))
    assert "3 members" in page_of(tmp_path, *paths)  # where there is no room matplotlib warns, which is an error here


def test_a_legend_says_no_more_of_a_method_than_tells_it_from_the_others() -> None:
    long, other, alone = (
        "min_gru, filtered bc, 2 members",
        "min_gru, filtered bc, interleaved",
        "gru, filtered bc, 2 members",
    )
    assert short_names([long, other, alone]) == {long: long, other: other, alone: "gru, filtered bc"}


@pytest.mark.parametrize(("losses", "scale"), [((0.5, 0.1), "log"), ((0.5, -0.1), "linear")])
def test_a_loss_below_zero_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...], scale: str
) -> None:
    (run,) = find_runs([make_run(tmp_path)])
    rows = [{"step": step, "train/loss": loss} for step, loss in enumerate(losses)]
    monkeypatch.setattr(figures, "_svg", lambda figure: figure)
    drawn: Any = learning_curves([replace(run, metrics=rows)])
    assert drawn.axes[0].get_yscale() == scale


@pytest.mark.parametrize("harm", ["cut", "gone", "foreign", "no config"])
def test_a_torn_run_is_named_and_the_others_are_shown(tmp_path: Path, harm: str) -> None:
    make_run(tmp_path / "runs", seed=0)
    torn = make_run(tmp_path / "runs", seed=1)
    if harm == "cut":
        (torn / "results.json").write_text('{"score": {"me')
    elif harm == "gone":
        (torn / "results.json").unlink()
    elif harm == "foreign":
        (torn / "results.json").write_text('{"score": 3}')
    else:
        (torn / "config.json").write_text("{}")
    page = page_of(tmp_path, tmp_path / "runs")
    assert re.search(r'class="warning">[^<]*min_gru-seed1: (not finished|torn, or of another version)', page)
    assert "50.8 [49.8, 51.8]" in page


def test_episodes_that_failed_are_said(tmp_path: Path) -> None:
    page = page_of(tmp_path, make_run(tmp_path, failures=[{"seed": 3, "reason": "TimeoutError: too slow"}]))
    assert "1 episodes failed and are left out, the first with TimeoutError: too slow" in page


def test_torn_runs_alone_make_a_page_too(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "results.json").unlink()
    assert "No finished run" in page_of(tmp_path, path)


def test_a_run_that_was_not_evaluated_says_so(tmp_path: Path) -> None:
    nothing = {"mean": None, "ci_low": None, "ci_high": None, "std": None, "n": 0, "reason": "not evaluated"}
    run = make_run(tmp_path, score=nothing, returns=[], lengths=[])
    assert "The agent was not evaluated." in page_of(tmp_path, run)


def test_a_sweep_and_a_video_are_shown_where_there_are_some(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    points = [{"target_return": asked, "returns": [asked, asked + 1]} for asked in (50.0, 100.0)]
    (run / "target_sweep.json").write_text(json.dumps({"declared": 100.0, "points": points}))
    (run / "video.mp4").write_bytes(b"not really")
    page = page_of(tmp_path, run)
    assert "Asked and earned" in page
    assert base64.b64encode(b"not really").decode() in page


def test_figures_of_nothing_are_none(tmp_path: Path) -> None:
    assert score_bars([]) is None
    assert learning_curves([]) is None
    assert profiles(group_runs(find_runs([make_run(tmp_path)]))) is None


def test_the_command_writes_where_it_is_told_or_into_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs")
    report.main([str(run)])
    assert (run / "report.html").is_file()
    make_run(tmp_path / "runs", seed=1)
    report.main([str(tmp_path / "runs"), "--out", "both.html"])
    assert "both.html (2 runs)" in capsys.readouterr().out
    for places in (["nowhere"], [str(tmp_path / "page")]):
        (tmp_path / "page").mkdir(exist_ok=True)
        with pytest.raises(SystemExit):
            report.main(places)
        assert "error: there is no" in capsys.readouterr().err


@pytest.mark.slow
def test_a_browser_opens_the_page_plays_the_video_and_complains_of_nothing(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    iio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    import numpy as np

    run = make_run(tmp_path)
    iio.imwrite(run / "video.mp4", np.zeros((30, 64, 64, 3), np.uint8), fps=30, codec="libx264")
    page = page_of(tmp_path, run)
    check = """<script>window.onerror = m => document.title = 'error ' + m;
    const v = document.querySelector('video');
    v.play().then(() => setTimeout(() => {
      const ok = v.currentTime > 0 && v.videoWidth === 64 && !v.error;
      const big = [...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 200);
      document.title = ok && big ? 'plays' : 'does not play';
    }, 400)).catch(e => document.title = 'refused ' + e);</script>"""
    (tmp_path / "checked.html").write_text(page.replace("</body>", check + "</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-component-update", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        "--dump-dom",
        f"file://{tmp_path}/checked.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert title[1] == "plays"
    assert "CONSOLE" not in done.stderr
