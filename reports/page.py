"""Runs -> one HTML page with everything inside it: tables, figures, settings, a video."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.scores import Estimate, paired_difference, probability_of_improvement
from evaluate import target_in_words
from reports import figures
from reports.runs import Group, Run, group_runs, read_if_there

FEW_SEEDS = 4
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
        "title": _title(finished, groups),
        "date": datetime.date.today().isoformat(),
        "lead": _verdict(groups),
        "warnings": list(dict.fromkeys(warnings)),
        "tables": _tables(groups),
        "figures": _figures(runs, finished, groups),
        "video": _video(finished),
        "provenance": _provenance(finished),
        "configs": [(str(run.path), json.dumps(run.config, indent=1)) for run in runs],
    }


def _title(finished: list[Run], groups: list[Group]) -> str:
    if not finished:
        return "No finished run"
    if len(groups) == 1:
        count = len(groups[0].runs)
        return f"{groups[0].method} on {groups[0].task}" + (f", {count} seeds" if count > 1 else "")
    tasks, methods = ({getattr(group, what) for group in groups} for what in ("task", "method"))
    return f"{len(methods)} method{'s' * (len(methods) > 1)} on {len(tasks)} task{'s' * (len(tasks) > 1)}"


def _verdict(groups: list[Group]) -> list[str]:
    """What a person who reads one line should take away."""
    sentences = []
    for task in dict.fromkeys(group.task for group in groups):
        here = [group for group in groups if group.task == task]
        if len(here) == 1:
            sentences.append(_single_verdict(here[0]))
            continue
        ranked = sorted((group for group in here if group.score is not None), key=_by_score, reverse=True)
        if len(ranked) >= 2:
            sentences.append(_comparison_verdict(task, ranked[0], ranked[1]))
    return sentences


def _single_verdict(group: Group) -> str:
    run = group.runs[0]
    got, data = group.mean_return, run.about["dataset"]
    if got is None:
        return "The agent was not evaluated."
    times = ""
    if data["mean_return"] > 0:
        times = f", {got.value / data['mean_return']:.2g} times the data's mean of {data['mean_return']:,.0f}"
    score = f" The normalised score is {_score_in_words(group)}." if group.score is not None else ""
    return f"The agent earns a return of {got.value:,.0f} on average{times}.{score}"


def _comparison_verdict(task: str, first: Group, second: Group) -> str:
    sentence = f"{task}: {first.method} scores highest, {in_words(first.score)}"
    sentence += f"; next is {second.method}, {in_words(second.score)}."
    pairs = _paired(first, second)
    if pairs is None:
        return sentence + " They share too few seeds to say how sure that is."
    difference, better = paired_difference(*pairs), probability_of_improvement(*pairs)
    sure = difference.ci_low is not None and difference.ci_low > 0
    sentence += (
        f" Paired by seed it leads by {in_words(difference)}, and beats it with probability {better.value:.2f}: "
    )
    if not sure:
        return sentence + "these seeds do not show a difference."
    if difference.n < FEW_SEEDS:  # a bootstrap over so few is narrower than it should be
        return sentence + f"a lead, but {difference.n} seeds are too few to be sure of it."
    return sentence + "a difference that the seeds support."


def _paired(first: Group, second: Group) -> tuple[list[float], list[float]] | None:
    """Scores of the seeds that both ran; None for fewer than two."""
    ours, theirs = (
        {run.config.get("seed"): run.score for run in group.runs if run.score is not None} for group in (first, second)
    )
    shared = [seed for seed in ours if seed in theirs]
    return ([ours[s] for s in shared], [theirs[s] for s in shared]) if len(shared) > 1 else None


def _by_score(group: Group) -> float:
    return -np.inf if group.score is None else group.score.value


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
        here = sorted((group for group in groups if group.task == task), key=_by_score, reverse=True)
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
        tables.append({"headings": headings, "rows": rows, "caption": _caption(task, here)})
    return tables


HEADINGS = ["", "score", "best over training", "return", "runs", "training", "acting a step", "memory"]


def _cells(group: Group) -> list[str]:
    training = np.mean([run.results["seconds"]["training"] for run in group.runs if run.results])
    played = [run.results for run in group.runs if run.results and run.results["lengths"]]
    steps = [(one["seconds"]["evaluation"] - one["seconds"]["environments"]) / sum(one["lengths"]) for one in played]
    return [
        group.method,
        _score_in_words(group),
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


def _score_in_words(group: Group) -> str:
    """With the interval over runs; for a single run that over its episodes."""
    if group.score is None:
        return _reason(group)
    if len(group.runs) > 1 or group.runs[0].results is None:
        return in_words(group.score)
    return in_words(_over_episodes(group.runs[0].results["score"]))


def _over_episodes(score: dict[str, Any]) -> Estimate:
    return Estimate(score["mean"], score["ci_low"], score["ci_high"], score["n"])


def _reason(group: Group) -> str:
    reasons = [run.results["score"]["reason"] for run in group.runs if run.results]
    return f"none: {next((reason for reason in reasons if reason), 'not all runs have one')}"


def _best_over_training(group: Group) -> str:
    """Beside the last, never instead of it: picking the best of many is a choice made by the score itself."""
    best = []
    for run in group.runs:
        curve = [row["score/normalized"] for row in run.metrics if "score/normalized" in row]
        best.append(max(curve) if len(curve) > 1 else None)
    known = [value for value in best if value is not None]
    return f"{np.mean(known):.1f}" if known and len(known) == len(best) else ""


def _recorded(value: float, reference: dict[str, Any] | None) -> list[str]:
    score = ""
    if reference is not None and reference["of"] == "return":
        score = f"{100 * (value - reference['min']) / (reference['max'] - reference['min']):.1f}"
    return [score, "", f"{value:,.0f}", "", "", "", ""]


def _caption(task: str, groups: list[Group]) -> str:
    run = groups[0].runs[0]
    rules = run.results["protocol"] if run.results else {}
    single = all(len(group.runs) == 1 for group in groups)
    over = "over its episodes" if single else "over runs (percentile bootstrap)"
    return (
        f"{task}. Last checkpoint, {target_in_words(rules)}, {rules['num_episodes']} "
        f"episodes a run; 95 % intervals {over}. Acting without the environment's own time."
    )


def in_words(found: Estimate | None, digits: int = 1) -> str:
    if found is None:
        return "none"
    if found.ci_low is None or found.ci_high is None:
        return f"{found.value:,.{digits}f}"
    return f"{found.value:,.{digits}f} [{found.ci_low:,.{digits}f}, {found.ci_high:,.{digits}f}]"


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
