"""Judge a finished run again: another return, more episodes, other seeds, or another environment.

python evaluate.py run_dir=DIR num_episodes=100 target_return=3600
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import command_line

if TYPE_CHECKING:
    from agents import DecisionTransformer
    from envs.tasks import Task


@command_line("evaluate")
def main(config: dict[str, Any]) -> None:
    """Scores the newest checkpoint and writes evaluation.json; the run's own results.json stays as it is."""
    from agents import load_agent
    from agents.devices import choose_device
    from envs.tasks import Task
    from run import read_json, write_json
    from summary import print_results

    run_dir = Path(config["run_dir"])
    agent = load_agent(run_dir).to(choose_device(config["device"], config["num_threads"]))
    agent.acting_mode = config["acting_mode"] or agent.acting_mode
    task = Task.from_description(read_json(run_dir / "task.json"))
    if config["env_id"] is not None:
        task = task.in_environment(config["env_id"])
    results = judge(
        agent,
        task,
        target_return=config["target_return"],
        num_episodes=config["num_episodes"],
        num_envs=config["num_envs"],
        seed=config["seed"],
    )
    write_json(run_dir / "evaluation.json", results)
    print_results(results, run_dir, "evaluation.json")


def judge(
    agent: DecisionTransformer,
    task: Task,
    *,
    num_episodes: int,
    num_envs: int,
    seed: int,
    target_return: float | None = None,
) -> dict[str, Any]:
    """The agent's score with its spread and where it comes from: the content of results.json.

    target_return: environment units; None for the one declared before training.
    """
    from envs.environments import physics_version
    from envs.evaluate import evaluate, summarize

    asked = task.target_return if target_return is None else target_return
    evaluation = evaluate(
        agent, task.make_environment, num_episodes=num_episodes, target_return=asked, seed=seed, num_envs=num_envs
    )
    successes, reference = evaluation.successes, task.reference
    if reference is None or reference["of"] == "return":
        score = summarize(evaluation.returns, reference)
    else:
        score = summarize([] if successes is None else successes, reference)
    return {
        "score": score,
        "success_rate": None if successes is None else float(successes.mean()),
        "returns": evaluation.returns.tolist(),
        "lengths": evaluation.lengths.tolist(),
        "protocol": {
            "checkpoint": "last",
            "target_return": asked,
            "target_declared_before_training": asked == task.target_return,
            "acting_mode": agent.acting_mode,
            "num_episodes": num_episodes,
            "first_seed": seed,
        },
        "provenance": {**task.describe(), "physics": physics_version()},
        "seconds": {"evaluation": evaluation.seconds, "environments": evaluation.env_seconds},
    }


if __name__ == "__main__":
    main()
