"""The model card of a run: what was trained, on what, how well it does, how that was found out, and how to use it."""

from __future__ import annotations

from typing import Any

import yaml

from evaluate import target_in_words
from reports.runs import Run


def card(run: Run, licence: str | None) -> str:
    """A README in the Hugging Face Hub's form, all of it from the run's own files.

    licence: that under which whoever publishes it gives it away; None leaves the line to be filled in.
    """
    assert run.results is not None
    results, about = run.results, run.about
    data, rules, score = about["dataset"], results["protocol"], results["score"]
    returns = results["returns"]
    lines = [
        "---",
        yaml.safe_dump(_front_matter(run, licence), sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {run.method} for {about['env_id'] or data['id']}",
        "",
        f"Learnt from recorded episodes of {data['id']} in {run.config['train']['num_steps']:,} gradient steps, "
        f"seed {run.config['seed']}.",
        "",
        "## Score",
        "",
        "| | |",
        "| --- | --- |",
        f"| normalised score | {_score(score)} |",
        f"| return | {_returns(returns)} |",
        f"| episodes | {len(returns)}, resets seeded from {rules['first_seed']}; {len(results['failures'])} failed |",
        f"| checkpoint | {rules['checkpoint']} |",
        f"| asked for | {target_in_words(rules)} |",
        f"| acting | {rules['acting_mode']} |",
        f"| environment | {about['env_id'] or 'none'}; {about['physics']} |",
        f"| 0 and 100 are | {_reference(about['reference'])} |",
        "",
        "## Data",
        "",
        f"{data['id']}: {data['num_episodes']:,} episodes, {data['num_steps']:,} steps, recorded in "
        f"{data['recorded_in'] or 'an environment that it does not name'}. Return: mean {data['mean_return']:.1f}, "
        f"90th percentile {data['percentile_90_return']:.1f}, best {data['best_return']:.1f}.",
        "",
        f"sha256 `{data['sha256']}`",
        *(f"\n- {note}" for note in data["notes"]),
        "",
        "## Use",
        "",
        "```",
        "python evaluate.py run_dir=THIS_DIRECTORY        # score it again",
        "python export.py run_dir=THIS_DIRECTORY          # one ONNX file that needs no torch",
        "```",
        "",
        "```python",
        "from agents import load_agent",
        "",
        'agent = load_agent("THIS_DIRECTORY")',
        f"agent.reset(1, target_return={rules['target_return']:g})",
        "actions = agent.act(observations, rewards)       # [1, obs_dim], [1]; rewards are zeros at first",
        "```",
        "",
        "Weights are safetensors under a sha256 manifest, checked as they are read; nothing here can run code.",
        "",
        "## Limits",
        "",
        "One seed: another one trained the same way may score otherwise. The interval is over episodes of this agent. "
        "It has seen nothing but its data, and was judged in simulation alone.",
    ]
    return "\n".join(lines) + "\n"


def _front_matter(run: Run, licence: str | None) -> dict[str, Any]:
    about = run.about
    known: dict[str, Any] = {
        "license": licence or "other",
        "tags": ["reinforcement-learning", "offline-rl", "decision-transformer", run.config["backbone"]["name"]],
    }
    if run.mean_return is None:
        return known
    metrics = [{"type": "mean_reward", "value": round(run.mean_return, 2), "name": "mean return"}]
    if run.score is not None:
        metrics.append({"type": "d4rl_score", "value": round(run.score, 2), "name": "D4RL normalised score"})
    result = {
        "task": {"type": "reinforcement-learning"},
        "dataset": {"name": about["dataset"]["id"], "type": about["env_id"] or "none"},
        "metrics": metrics,
    }
    return {**known, "model-index": [{"name": run.method, "results": [result]}]}


def _score(score: dict[str, Any]) -> str:
    if score["mean"] is None:
        return f"none: {score['reason']}"
    spread = score["reason"] or f"95 % interval {score['ci_low']:.1f} to {score['ci_high']:.1f} over episodes"
    return f"{score['mean']:.1f} ({spread})"


def _returns(returns: list[float]) -> str:
    if not returns:
        return "not evaluated"
    return f"mean {sum(returns) / len(returns):.1f}, lowest {min(returns):.1f}, highest {max(returns):.1f}"


def _reference(reference: dict[str, Any] | None) -> str:
    if reference is None:
        return "not known"
    return f"a {reference['of']} of {reference['min']:g} and of {reference['max']:g}: {reference['source']}"
