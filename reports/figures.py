"""The figures of a report, as SVG that takes the colours of the page around it."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.runs import Group, Run, short_names

COLOURS = ("#2f7ed8", "#e07b00", "#2a9d5c", "#c0392b", "#8e5bb5", "#8a6d3b", "#d36ba6", "#6c757d")


def colour_of(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def score_bars(groups: Sequence[Group]) -> str | None:
    """One bar a method with its interval over seeds and a dot a seed; a panel a task."""
    scored = [group for group in groups if group.mean_return is not None]
    tasks = list(dict.fromkeys(group.task for group in scored))
    if not tasks:
        return None
    methods = list(dict.fromkeys(group.method for group in scored))
    labels = [textwrap.fill(name, 36) for name in short_names(methods).values()]
    height = 0.9 + sum(max(0.42, 0.17 * (label.count("\n") + 1)) for label in labels)
    figure, panels = _panels(len(tasks), width=6.4 if len(tasks) == 1 else 4.9, height=height)
    for axis, task in zip(panels, tasks, strict=True):
        here = {group.method: group for group in scored if group.task == task}
        for place, method in enumerate(reversed(methods)):
            if method in here:
                _bar(axis, place, here[method], colour_of(methods.index(method)))
        axis.set_yticks(range(len(methods)), labels[::-1], fontsize="small")
        has_score = all(group.score is not None for group in here.values())
        axis.set(xlabel="normalised score" if has_score else "return")
        axis.set_title(task, fontsize="medium", loc="right")
    return _svg(figure)


def _bar(axis: Any, place: int, group: Group, colour: str) -> None:
    found = group.score or group.mean_return
    values = [run.score if group.score is not None else run.mean_return for run in group.runs]
    if found is None:
        return
    axis.barh(place, found.value, height=0.62, color=colour, alpha=0.55)
    axis.plot(values, [place] * len(values), "o", color=colour, markersize=4)
    if found.ci_low is not None:
        axis.plot([found.ci_low, found.ci_high], [place, place], color="black", linewidth=1.6)


def learning_curves(runs: Sequence[Run]) -> str | None:
    """The training loss, and the return over training against the returns in the data."""
    runs = [run for run in runs if run.metrics]
    if not runs:
        return None
    figure, (loss, score) = _panels(2)
    methods = list(dict.fromkeys(run.method for run in runs))
    names = short_names(methods)
    for run in runs:
        look = {"color": colour_of(methods.index(run.method)), "linewidth": 1.3}
        label = names[run.method] if run is next(one for one in runs if one.method == run.method) else None
        for axis, key in ((loss, "train/loss"), (score, "score/return_mean")):
            points = [(row["step"], row[key]) for row in run.metrics if key in row]
            if points:
                marker = "o" if key.startswith("score") else None
                axis.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3, **look)
    data = runs[0].about.get("dataset")
    if data and len({run.task for run in runs}) == 1:
        for heading, key, style in (("data, mean", "mean_return", ":"), ("data, best", "best_return", "--")):
            score.axhline(data[key], color="black", linestyle=style, linewidth=1, label=heading)
    losses = [row["train/loss"] for run in runs for row in run.metrics if "train/loss" in row]
    scale = "log" if losses and min(losses) > 0 else "linear"  # a likelihood's falls below zero
    loss.set(xlabel="gradient steps", ylabel="training loss", yscale=scale)
    score.set(xlabel="gradient steps", ylabel="return")
    _legend(score)
    return _svg(figure)


def returns_of_data_and_agents(runs: Sequence[Run], recorded: dict[str, Any] | None) -> str | None:
    """How often which return was earned, in the data (its return_histogram) and by the agents."""
    runs = [run for run in runs if run.results is not None and run.results["returns"]]
    if not runs:
        return None
    figure, (axis,) = _panels(1, width=6.4)
    returns: dict[str, list[float]] = {run.method: [] for run in runs}
    for run in runs:
        returns[run.method] += run.results["returns"] if run.results else []
    everything = np.concatenate([*returns.values(), recorded["edges"] if recorded else []])
    edges = np.histogram_bin_edges(everything, bins=40)
    if recorded:
        counts = np.asarray(recorded["counts"], np.float64)
        middles = 0.5 * (np.asarray(recorded["edges"][1:]) + np.asarray(recorded["edges"][:-1]))
        axis.hist(middles, edges, weights=counts / counts.sum(), color="#888888", alpha=0.6, label="data")
    names = short_names(returns)
    for index, (method, values) in enumerate(returns.items()):
        look = {"histtype": "step", "linewidth": 1.6, "color": colour_of(index), "label": names[method]}
        axis.hist(values, edges, weights=np.full(len(values), 1 / len(values)), **look)
    axis.set(xlabel="return of an episode", ylabel="share of the episodes")
    _legend(axis)
    return _svg(figure)


def asked_and_got(sweep: dict[str, Any] | None) -> str | None:
    """The return earned against the one asked for, from target_sweep.json."""
    if not sweep or not sweep.get("points"):
        return None
    figure, (axis,) = _panels(1, width=6.4)
    asked = [point["target_return"] for point in sweep["points"]]
    means = [float(np.mean(point["returns"])) for point in sweep["points"]]
    low, high = (
        [float(np.percentile(point["returns"], percentile)) for point in sweep["points"]] for percentile in (10, 90)
    )
    axis.fill_between(asked, low, high, color=colour_of(0), alpha=0.25, label="10 to 90 % of the episodes")
    axis.plot(asked, means, marker="o", color=colour_of(0), label="mean return")
    axis.plot(asked, asked, color="black", linestyle=":", linewidth=1, label="as asked")
    axis.axvline(sweep["declared"], color="black", linewidth=1, linestyle="--", label="declared before training")
    axis.set(xlabel="return asked for", ylabel="return earned")
    _legend(axis)
    return _svg(figure)


def profiles(groups: Sequence[Group]) -> str | None:
    """The share of runs and tasks that score above a threshold, for methods that ran on every task."""
    from envs.scores import performance_profile

    tasks = list(dict.fromkeys(group.task for group in groups))
    methods = list(dict.fromkeys(group.method for group in groups))
    scores = {m: [run.score for group in groups if group.method == m for run in group.runs] for m in methods}
    whole = {
        m: [value for value in values if value is not None]
        for m, values in scores.items()
        if len({group.task for group in groups if group.method == m}) == len(tasks) and None not in values
    }
    if len(whole) < 2 or min(map(len, whole.values())) < 3:
        return None
    figure, (axis,) = _panels(1, width=6.4)
    everything = np.concatenate([*whole.values()])
    thresholds = np.linspace(min(0.0, everything.min()), everything.max() * 1.02, 200)
    names = short_names(whole)
    for index, (method, values) in enumerate(whole.items()):
        axis.plot(thresholds, performance_profile(values, thresholds), color=colour_of(index), label=names[method])
    axis.set(xlabel="score", ylabel="share of runs above it", ylim=(0, 1.02))
    _legend(axis)
    return _svg(figure)


def _panels(count: int, *, width: float = 4.4, height: float = 3.2) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasSVG(figure)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, list(axes[:count])


def _legend(axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:  # a method may be many words, which on one line would leave no room for the curves
        axis.legend(handles, [textwrap.fill(label, 40) for label in labels], fontsize="small", framealpha=0.0)


def _svg(figure: Any) -> str:
    """Inline SVG without a background; black takes the colour of the page's text, so that it reads in the dark."""
    import matplotlib

    target = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"}):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    width = f'style="max-width: {100 * figure.get_figwidth():.0f}px"'
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', rf"\1 {width}", svg, count=1)
    return re.sub(r"#000000|(?<=fill: )black|(?<=stroke: )black", "currentColor", svg)
