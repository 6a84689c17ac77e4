"""Runs -> one HTML page with everything inside it: tables, figures, settings, a video."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.references import score_of_return
from reports import figures
from reports.runs import Group, Run, group_runs, read_if_there
from reports.sentences import by_score, caption_of, in_words, score_in_words, title_of, verdict_of

SWEEP = {"declared": float, "points": [{"target_return": float, "returns": [float]}]}  # as envs.patterns writes it
TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_page(runs: Sequence[Run], out: Path) -> None:
    """The page of these runs: a report of one run, or a comparison of several."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**_content(list(runs)))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(out)


def _content(runs: list[Run]) -> dict[str, Any]:
    groups = group_runs(runs)
    finished = [run for run in runs if run.results is not None]
    warnings = [f"{run.path}: {run.problem}" for run in runs if run.problem]
    warnings += [f"{group.task}, {group.method}: {text}" for group in groups for text in group.warnings]
    warnings += [
        f"{run.path}: {len(failures)} episodes failed and are left out, the first with {failures[0]['reason']}"
        for run in finished
        if run.results and (failures := run.results.get("failures"))
    ]
    warnings += _differences_within_tasks(groups)
    return {
        "title": title_of(finished, groups),
        "date": datetime.date.today().isoformat(),
        "lead": verdict_of(groups),
        "warnings": list(dict.fromkeys(warnings)),
        "tables": _tables(groups),
        "figures": _figures(runs, finished, groups),
        "video": _video(finished),
        "provenance": _provenance(finished),
        "configs": [(str(run.path), json.dumps(run.config, indent=1)) for run in runs],
    }


def _differences_within_tasks(groups: list[Group]) -> list[str]:
    warnings = []
    for task in dict.fromkeys(group.task for group in groups):
        protocols = {run.protocol for group in groups if group.task == task for run in group.runs}
        if len(protocols) > 1:
            warnings.append(f"{task}: not all runs were made by the same protocol, data, physics and number of steps")
    return warnings


def _tables(groups: list[Group]) -> list[dict[str, Any]]:
    tables = []
    for task in dict.fromkeys(group.task for group in groups):
        here = sorted((group for group in groups if group.task == task), key=by_score, reverse=True)
        best = here[0] if len(here) > 1 and here[0].score is not None else None
        rows: list[dict[str, Any]] = [{"cells": _cells(group), "best": group is best} for group in here]
        data, reference = here[0].runs[0].about["dataset"], here[0].runs[0].about["reference"]
        for what, key in (("data: mean (the behaviour policy)", "mean_return"), ("data: best episode", "best_return")):
            rows.append({"cells": [what, *_recorded(data[key], reference)], "best": False})
        if reference is not None and reference["of"] == "return":
            rows.append({"cells": ["random policy", *_recorded(reference["min"], reference)], "best": False})
        kept = [place for place in range(len(HEADINGS)) if not place or any(row["cells"][place] for row in rows)]
        for row in rows:
            row["cells"] = [row["cells"][place] for place in kept]
        headings = [HEADINGS[place] for place in kept]
        tables.append({"headings": headings, "rows": rows, "caption": caption_of(task, here)})
    return tables


HEADINGS = ["", "score", "best over training", "return", "runs", "training", "acting a step", "memory"]


def _cells(group: Group) -> list[str]:
    training = np.mean([run.results["seconds"]["training"] for run in group.runs if run.results])
    played = [run.results for run in group.runs if run.results and run.results["lengths"]]
    steps = [(one["seconds"]["evaluation"] - one["seconds"]["environments"]) / sum(one["lengths"]) for one in played]
    return [
        group.method,
        score_in_words(group),
        _best_over_training(group),
        "" if group.mean_return is None else in_words(group.mean_return, 0),
        str(len(group.runs)),
        f"{training:,.0f} s",
        f"{1e6 * np.mean(steps):,.0f} µs" if steps else "",
        _memory(group),
    ]


def _memory(group: Group) -> str:
    peaks = [run.results.get("peak_memory_mb") for run in group.runs if run.results]
    known = [peak for peak in peaks if peak is not None]
    return f"{max(known):,.0f} MB" if known else ""


def _best_over_training(group: Group) -> str:
    """Beside the last, never instead of it: picking the best of many is a choice made by the score itself."""
    best = []
    for run in group.runs:
        curve = [row["score/normalized"] for row in run.metrics if "score/normalized" in row]
        best.append(max(curve) if len(curve) > 1 else None)
    known = [value for value in best if value is not None]
    return f"{np.mean(known):.1f}" if known and len(known) == len(best) else ""


def _recorded(value: float, reference: dict[str, Any] | None) -> list[str]:
    return [score_of_return(value, reference), "", f"{value:,.0f}", "", "", "", ""]


def _figures(runs: list[Run], finished: list[Run], groups: list[Group]) -> list[dict[str, str]]:
    sweep = read_if_there(finished[0].path / "target_sweep.json", SWEEP) if len(finished) == 1 else None
    drawn = [
        (
            "Scores",
            figures.score_bars(groups) if len(finished) > 1 else None,
            "Bars: means; black: 95 % intervals over runs; dots: runs.",
        ),
        (
            "Over training",
            figures.learning_curves(runs),
            "One line a run. Returns are means over the curve's episodes.",
        ),
        (
            "Returns",
            figures.returns_of_data_and_agents(finished, finished[0].about["dataset"]["return_histogram"])
            if _is_one_task(groups)
            else None,
            "Every episode that was recorded, and every episode of the final evaluation.",
        ),
        (
            "Asked and earned",
            figures.asked_and_got(sweep),
            "How far the return can be steered. The score above is that of the declared target, whatever this shows.",
        ),
        (
            "Performance profile",
            figures.profiles(groups),
            "The share of runs over all tasks that score above a threshold; higher is better.",
        ),
    ]
    return [{"title": title, "svg": svg, "caption": caption} for title, svg, caption in drawn if svg is not None]


def _is_one_task(groups: list[Group]) -> bool:
    return len({group.task for group in groups}) == 1


def _video(finished: list[Run]) -> dict[str, str] | None:
    for run in finished:
        path = run.path / "video.mp4"
        if path.is_file():
            about = read_if_there(run.path / "video.json", {"return": float, "seed": int})
            earned = f", seed {about['seed']}, return {about['return']:,.0f}" if about else ""
            caption = f"{run.method}{earned}; not chosen: the first episode of the evaluation."
            return {"data": base64.b64encode(path.read_bytes()).decode(), "caption": caption}
    return None


def _provenance(finished: list[Run]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for run in {run.task: run for run in finished}.values():
        about, data = run.about, run.about["dataset"]
        reference = about["reference"]
        rows += [
            ("dataset", f"{data['id']}, {data['num_episodes']:,} episodes, {data['num_steps']:,} steps"),
            ("its sha256", data["sha256"]),
            (
                "environment",
                f"{about['env_id']}, {about['physics']}" + (" (declared)" if about["env_declared"] else ""),
            ),
            (
                "reference scores",
                "none"
                if reference is None
                else f"0 is {reference['min']:g}, 100 is {reference['max']:g} ({reference['source']})",
            ),
        ]
        rows += [("note", note) for note in data["notes"]]
    seeds = sorted({int(run.config.get("seed", 0)) for run in finished})
    return [*rows, ("seeds of training", ", ".join(map(str, seeds)))]
