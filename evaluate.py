"""Judge a finished run again: another return, more episodes, other seeds, or another environment.

python evaluate.py run_dir=DIR num_episodes=100 target_return=3600
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ConfigError, command_line

if TYPE_CHECKING:
    from agents import DecisionTransformer
    from agents.parallel import Ranks
    from envs.tasks import Task
    from play import OnnxPolicy


@command_line("evaluate")
def main(config: dict[str, Any]) -> None:
    """Scores the last checkpoint, or the best, and writes evaluation.json; the run's own results.json stays."""
    from agents import load_agent
    from agents.devices import choose_device
    from envs.tasks import Task
    from run import best_checkpoint, read_json, write_json
    from summary import print_results, print_sweep

    check_sweep(config["target_sweep"])
    run_dir = Path(config["run_dir"])
    checkpoint = best_checkpoint(run_dir) if config["checkpoint"] == "best" else run_dir
    agent = load_agent(checkpoint).to(choose_device(config["device"], config["num_threads"]))
    agent.acting_mode = config["acting_mode"] or agent.acting_mode
    if config["target_sweep"] is not None and not agent.condition_on_return:
        raise ConfigError("target_sweep needs an agent that is asked for a return, such as agent=decision_transformer")
    say_if_not_asked(agent, config["target_return"])
    task = Task.from_description(read_json(run_dir / "task.json"))
    if config["env_id"] is not None:
        task = task.in_environment(config["env_id"])
    results = judge(
        agent,
        task,
        target_return=config["target_return"],
        **judging(config),
    )
    results["protocol"]["checkpoint"] = config["checkpoint"]
    write_json(run_dir / "evaluation.json", results)
    print_results(results, run_dir, "evaluation.json")
    if config["target_sweep"] is not None:
        sweep = sweep_targets(agent, task, config)
        write_json(run_dir / "target_sweep.json", sweep)
        print_sweep(sweep)
    if config["video"]:
        film(agent, task, config, run_dir)


def judging(settings: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `judge` that a config holds under their own names."""
    return {key: settings[key] for key in ("num_episodes", "num_envs", "seed", "num_workers", "step_timeout")}


def check_sweep(asked: Any) -> None:
    """Raises ConfigError unless target_sweep is a number of returns or a list of them."""
    from numbers import Real

    numbers = asked if isinstance(asked, list) and asked else [asked]
    if asked is not None and not all(isinstance(one, Real) and not isinstance(one, bool) for one in numbers):
        raise ConfigError(f"target_sweep must be a number of returns to ask for, or a list of returns; got {asked!r}")


def say_if_not_asked(policy: DecisionTransformer | OnnxPolicy, target_return: float | None) -> None:
    """A note where a return is given to a policy that is asked for none."""
    if target_return is not None and not policy.condition_on_return:
        print("note: this agent is asked for no return; target_return changes nothing", file=sys.stderr)


def sweep_targets(agent: DecisionTransformer, task: Task, config: dict[str, Any]) -> dict[str, Any]:
    """What the agent earns when asked for more and for less: {declared, points of {target_return, returns}}."""
    import numpy as np

    asked = config["target_sweep"]
    if not isinstance(asked, list):
        lowest = task.dataset.get("return_histogram", {"edges": [task.dataset["mean_return"]]})["edges"][0]
        highest = max(task.dataset["best_return"], task.target_return)
        asked = np.linspace(lowest, highest, max(2, int(asked))).tolist()
    points = [
        {
            "target_return": float(one),
            "returns": judge(agent, task, target_return=float(one), **judging(config))["returns"],
        }
        for one in asked
    ]
    return {"declared": task.target_return, "points": points}


def film(agent: DecisionTransformer, task: Task, config: dict[str, Any], run_dir: Path) -> None:
    """The first episode of the evaluation as video.mp4; where nothing can be drawn, a line that says what to do."""
    from envs.video import VideoError, record_video
    from run import write_json

    target_return = task.target_return if config["target_return"] is None else config["target_return"]
    try:
        about = record_video(agent, task, run_dir / "video.mp4", seed=config["seed"], target_return=target_return)
    except VideoError as error:
        print(f"no video: {error}", file=sys.stderr)
        return
    write_json(run_dir / "video.json", about)
    print(f"video: {run_dir / 'video.mp4'}, return {about['return']:.0f}")


def judge(
    agent: DecisionTransformer | OnnxPolicy,
    task: Task,
    *,
    num_episodes: int,
    num_envs: int,
    seed: int,
    num_workers: int = 1,
    step_timeout: float = 60.0,
    target_return: float | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """The agent's score with its spread and where it comes from: the content of results.json.

    target_return: environment units; None for the one declared before training. ranks: processes that share the
    episodes, and of which each gets all of the result; None for this one alone.
    """
    import numpy as np

    from envs.environments import physics_version
    from envs.evaluate import evaluate, merged, summarize

    asked = task.target_return if target_return is None else target_return
    episodes = np.arange(num_episodes) if ranks is None else ranks.share(np.arange(num_episodes))
    evaluation = evaluate(
        agent,
        task.make_environment,
        num_episodes=len(episodes),
        target_return=asked,
        seed=seed + (int(episodes[0]) if len(episodes) else 0),
        num_envs=num_envs,
        num_workers=num_workers,
        step_timeout=step_timeout,
    )
    if ranks is not None:
        evaluation = merged(ranks.gather(evaluation))
    successes, reference = evaluation.successes, task.reference
    if reference is None or reference["of"] == "return":
        score = summarize(evaluation.returns, reference)
    else:
        score = summarize([] if successes is None else successes, reference)
    if evaluation.failures and not len(evaluation.returns):
        score["reason"] = (
            f"all {num_episodes} episodes failed, the first with {next(iter(evaluation.failures.values()))}"
        )
    return {
        "score": score,
        "failures": [{"seed": seed, "reason": why} for seed, why in evaluation.failures.items()],
        "success_rate": None if successes is None else float(successes.mean()),
        "returns": evaluation.returns.tolist(),
        "lengths": evaluation.lengths.tolist(),
        "protocol": {
            "checkpoint": "last",
            "asks_for_return": agent.condition_on_return,
            "target_return": asked,
            "target_declared_before_training": asked == task.target_return,
            "acting_mode": agent.acting_mode,
            "num_episodes": num_episodes,
            "first_seed": seed,
        },
        "provenance": {**task.describe(), "physics": physics_version()},
        "seconds": {"evaluation": evaluation.seconds, "environments": evaluation.env_seconds},
    }


def target_in_words(protocol: dict[str, Any]) -> str:
    """Which return an agent was asked for, and since when that was settled."""
    if not protocol.get("asks_for_return", True):
        return "no return asked for"
    asked = "declared before training" if protocol["target_declared_before_training"] else "asked for afterwards"
    return f"target return {protocol['target_return']:,.0f} ({asked})"


if __name__ == "__main__":
    main()
