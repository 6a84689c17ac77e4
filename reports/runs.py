"""Finished runs, read from their directories and put in groups that may be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.patterns import mismatch
from envs.scores import Estimate, estimate, interquartile_mean

# What a report reads of config.json, as envs.patterns writes it.
CONFIG: dict[str, Any] = {
    "seed": int,
    "backbone": {"name": str},
    "agent": {"name": str, "token_layout": str, "top_fraction": float, "top_return": (float, None)},
    "train": {"num_steps": int},
}


@dataclass(frozen=True)
class Run:
    """One run directory. results is None where there is no whole results.json, and problem then says why."""

    path: Path
    config: dict[str, Any]
    results: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    problem: str | None = None

    @property
    def method(self) -> str:
        """What learnt, in the words of its config."""
        agent, backbone = self.config["agent"], self.config["backbone"]["name"]
        words = [backbone, agent["name"].replace("_", " ")]
        if agent["token_layout"] != "merged":
            words.append(agent["token_layout"])
        if agent["top_fraction"] < 1:
            words.append(f"best {100 * agent['top_fraction']:g} % of the episodes")
            words += [] if agent["top_return"] is None else [f"and those within {agent['top_return']:g} of the best"]
        if agent.get("earliest_of", 1) != 1:  # which runs of before have not
            words.append(f"earliest of {agent['earliest_of']} windows")
        if agent.get("num_members", 1) != 1:
            words.append(f"{agent['num_members']} members")
        losses = agent.get("action_loss", "squared")
        losses = losses if isinstance(losses, list) else [losses]
        if losses != ["squared"]:
            words.append(f"loss {', '.join(map(str, losses))}")
        return ", ".join(words)

    @property
    def about(self) -> dict[str, Any]:
        return {} if self.results is None else self.results["provenance"]

    @property
    def task(self) -> str:
        """What was learnt from and played: only runs of the same task share a line of a table."""
        if self.results is None:
            return "unknown"
        return f"{self.about['dataset']['id']} in {self.about['env_id'] or 'no environment'}"

    @property
    def protocol(self) -> tuple[Any, ...]:
        """All that must agree for two scores to be held against each other."""
        if self.results is None:
            return ()
        rules = self.results["protocol"]
        agreed = ("checkpoint", "target_return", "target_declared_before_training", "num_episodes", "first_seed")
        return (
            *(rules.get(key) for key in agreed),
            self.about["dataset"]["sha256"],
            self.about["physics"],
            self.config["train"]["num_steps"],
        )

    @property
    def score(self) -> float | None:
        return None if self.results is None else self.results["score"]["mean"]

    @property
    def mean_return(self) -> float | None:
        returns = [] if self.results is None else self.results["returns"]
        return sum(returns) / len(returns) if returns else None


@dataclass(frozen=True)
class Group:
    """The seeds of one method on one task. score and mean_return are None where nothing was evaluated."""

    task: str
    method: str
    runs: list[Run]

    @property
    def score(self) -> Estimate | None:
        found = [run.score for run in self.runs if run.score is not None]
        return estimate(found) if found and len(found) == len(self.runs) else None

    @property
    def interquartile_mean(self) -> Estimate | None:
        found = [run.score for run in self.runs if run.score is not None]
        return estimate(found, interquartile_mean) if len(found) == len(self.runs) and len(found) > 3 else None

    @property
    def mean_return(self) -> Estimate | None:
        found = [run.mean_return for run in self.runs if run.mean_return is not None]
        return estimate(found) if found else None

    @property
    def warnings(self) -> list[str]:
        """Why these runs should not be one mean."""
        if len({run.protocol for run in self.runs}) > 1:
            return ["the runs differ in protocol, data or physics: their mean says little"]
        return []


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Every run directory that is one of these places or lies below one."""
    found: dict[Path, Run] = {}
    for place in places:
        inside = sorted(path.parent for path in place.rglob("config.json") if "checkpoints" not in path.parts)
        for path in [place] if (place / "config.json").is_file() else inside:
            found[path.resolve()] = read_run(path)
    return list(found.values())


def read_run(path: Path) -> Run:
    """The run in this directory, torn or not. Never raises for what is in it."""
    from metrics import read_metrics
    from run import RunError, read_json, read_results

    problem: str | None = None
    config: dict[str, Any] = {}
    results: dict[str, Any] | None = None
    try:
        config = read_json(path / "config.json")
        if wrong := mismatch(config, CONFIG):
            raise RunError(wrong)
        if (path / "results.json").is_file():
            results = read_results(path / "results.json")
        else:
            problem = "not finished: it has no results.json"
    except RunError as error:
        return Run(path, {}, None, [], f"torn, or of another version: {error}")
    return Run(path, config, results, read_metrics(path), problem)


def short_names(methods: Iterable[str]) -> dict[str, str]:
    """Of each method its backbone and agent alone, if these tell it from the others, or else all that is said of it."""
    names = {method: ", ".join(method.split(", ")[:2]) for method in methods}
    shared = Counter(names.values())
    return {method: name if shared[name] == 1 else method for method, name in names.items()}


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Finished runs by task and method, in the order they came."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.results is not None:
            groups.setdefault((run.task, run.method), []).append(run)
    return [Group(task, method, members) for (task, method), members in groups.items()]


def read_if_there(path: Path, pattern: Any) -> Any:
    """What a JSON file holds; None where there is none, or none that fits the pattern (see envs.patterns)."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return None if mismatch(value, pattern) else value
