"""What a report says in words: its title, who is ahead and how sure that is, and what a score is."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.scores import Estimate, paired_difference, probability_of_improvement
from evaluate import target_in_words
from reports.runs import Group, Run

FEW_SEEDS = 4


def title_of(finished: list[Run], groups: list[Group]) -> str:
    if not finished:
        return "No finished run"
    if len(groups) == 1:
        count = len(groups[0].runs)
        return f"{groups[0].method} on {groups[0].task}" + (f", {count} seeds" if count > 1 else "")
    tasks, methods = ({getattr(group, what) for group in groups} for what in ("task", "method"))
    return f"{len(methods)} method{'s' * (len(methods) > 1)} on {len(tasks)} task{'s' * (len(tasks) > 1)}"


def verdict_of(groups: list[Group]) -> list[str]:
    """What a person who reads one line should take away."""
    sentences = []
    for task in dict.fromkeys(group.task for group in groups):
        here = [group for group in groups if group.task == task]
        if len(here) == 1:
            sentences.append(_single_verdict(here[0]))
            continue
        ranked = sorted((group for group in here if group.score is not None), key=by_score, reverse=True)
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
    score = f" The normalised score is {score_in_words(group)}." if group.score is not None else ""
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


def by_score(group: Group) -> float:
    return -np.inf if group.score is None else group.score.value


def score_in_words(group: Group) -> str:
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


def caption_of(task: str, groups: list[Group]) -> str:
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
