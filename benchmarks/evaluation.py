"""What a policy adds to the cost of its environments: evaluation against stepping them with the same actions.

python benchmarks/evaluation.py [--run-dir DIR]      DIR: a trained agent's; else an untrained one plays
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from measuring import alternate, arguments, bars, milliseconds, ratio, report

from agents import DecisionTransformer, load_agent
from config_overrides import Composer
from envs.evaluate import evaluate
from train_offline import build_learner, load_task


class Recorder:
    """Plays as the agent does and keeps what it did."""

    def __init__(self, agent: DecisionTransformer) -> None:
        self._agent = agent
        self.actions: list[np.ndarray] = []

    def reset(self, num_envs: int, target_return: float) -> None:
        self._agent.reset(num_envs, target_return)
        self.actions = []

    def act(self, observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        self.actions.append(self._agent.act(observations, rewards))
        return self.actions[-1]


def main() -> None:
    chosen = arguments(__doc__, run_dir=None, num_envs=[10, 64], num_steps=300, rounds=5)
    agent = load_agent(chosen.run_dir) if chosen.run_dir else untrained_agent()
    rows = [row for num_envs in chosen.num_envs for row in measure(agent, num_envs, chosen)]
    note = "Hopper-v5; bare: the same actions, each environment stepped by itself."
    report("evaluation", rows, chosen, note=note, figure=bars(rows, "ratio", "acting", "environments"))


def measure(agent: DecisionTransformer, num_envs: int, chosen: Any) -> list[dict[str, Any]]:
    """One row an acting mode: its evaluation beside the bare stepping of the episodes it plays."""
    settings = {"max_episode_steps": chosen.num_steps, "terminate_when_unhealthy": False}

    def make_env() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("Hopper-v5", **settings)

    def play(policy: Any, mode: str) -> None:
        agent.acting_mode = mode  # type: ignore[assignment]
        evaluate(policy, make_env, num_episodes=num_envs, target_return=3000.0, seed=0, num_envs=num_envs)

    candidates: dict[str, Callable[[], object]] = {}
    for mode in ("carried", "window"):
        recorder = Recorder(agent)
        play(recorder, mode)
        actions = np.stack(recorder.actions, axis=1)
        candidates[f"{mode}, bare"] = lambda actions=actions: step_alone(make_env, actions)
        candidates[mode] = lambda mode=mode: play(agent, mode)
    times = alternate(candidates, chosen.rounds)
    return [
        {
            "acting": mode,
            "environments": num_envs,
            "evaluation, ms": milliseconds(times, mode),
            "bare, ms": milliseconds(times, f"{mode}, bare"),
            "ratio": ratio(times, mode, f"{mode}, bare"),
        }
        for mode in ("carried", "window")
    ]


def step_alone(make_env: Callable[[], gymnasium.Env[Any, Any]], actions: np.ndarray) -> None:
    """Plays actions [num_envs, num_steps, action_dim], one environment after another."""
    for seed, row in enumerate(actions):
        env = make_env()
        env.reset(seed=seed)
        for action in row:
            env.step(action)
        env.close()


def untrained_agent() -> DecisionTransformer:
    """The demo's agent before its first step."""
    config = Composer("train_offline").config(["task=hopper_demo", "agent=decision_transformer"])
    return build_learner(config, *load_task(config), torch.device("cpu")).agent


if __name__ == "__main__":
    main()
