"""What a decision costs once a policy is exported, for every backbone; and whether it earns the same, and in time.

python benchmarks/exported.py [--run-dir DIR]        DIR: a finished run, played both ways for 20 episodes

Eager torch is the same one-step policy, called from Python on the same thread; every second round in reverse order.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import alternate, arguments, milliseconds, ratio, report
from sequence_models import settings_of

from agents import DecisionTransformer, build_agent, load_agent
from envs.tasks import Task
from evaluate import judge
from export import export, one_step_policy
from minrnn import MIXERS
from play import OnnxPolicy
from run import read_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

OBS_DIM, ACTION_DIM, STEPS = 11, 3, 200
TASK = Task(None, {}, False, None, 3000.0, 1000, {"low": [-1.0] * ACTION_DIM, "high": [1.0] * ACTION_DIM}, {})
Recorded = tuple[np.ndarray, np.ndarray]
# What attention carries is the past itself, with a place for every step of an episode: two ways to carry less.
SHORTER: dict[str, dict[str, Any]] = {
    "attention, the last 100 steps": {"window": 100},
    "attention, windows of 50 anew": {"acting_mode": "window"},
}


def main() -> None:
    chosen = arguments(__doc__, rounds=10, run_dir="", episodes=20, hertz=100.0, seconds=30.0)
    rng = np.random.default_rng(0)
    fed = rng.standard_normal((STEPS, 1, OBS_DIM)).astype(np.float32), np.zeros((STEPS, 1), np.float32)
    rows = [row_of(name, name, {}, fed, chosen.rounds) for name in sorted(MIXERS)]
    rows += [row_of(label, "attention", changes, fed, chosen.rounds) for label, changes in SHORTER.items()]
    notes = [
        f"A decision for one environment, three layers of width 64 at equal parameters, the mean over an episode's "
        f"first {STEPS} steps. Difference: the largest of an action over 1,000 steps that the exported policy and the "
        "agent were fed alike. Agent: its own act(), which for minimal RNNs is one compiled call."
    ]
    if chosen.run_dir:
        agent = load_agent(chosen.run_dir)
        task = Task.from_description(read_json(Path(chosen.run_dir) / "task.json"))
        data = export(agent, task, format="onnx", num_envs=1, target_return=task.target_return, checkpoint="last").data
        notes += [played(agent, task, data, chosen.episodes), on_time(data, chosen.hertz, chosen.seconds)]
    report("exported", rows, chosen, note="\n\n".join(notes))


def new_agent(backbone: str, *, acting_mode: str = "carried", **mixer: Any) -> DecisionTransformer:
    torch.manual_seed(0)
    settings = {
        "observation_mean": [0.0] * OBS_DIM,
        "observation_std": [1.0] * OBS_DIM,
        "return_scale": 1000.0,
        "context_length": 50,
        "token_layout": "merged",
        "condition_on_return": True,
        "max_timesteps": None,
        "acting_mode": acting_mode,
    }
    backbone_spec = settings_of(backbone)
    backbone_spec["mixer"] = {**backbone_spec["mixer"], **mixer}
    spec = {"name": "decision_transformer", "backbone": backbone_spec, "actions": TASK.actions, "settings": settings}
    return build_agent(spec).eval()


def row_of(label: str, backbone: str, changes: dict[str, Any], fed: Recorded, rounds: int) -> dict[str, Any]:
    agent = new_agent(backbone, **changes)
    exported = export(agent, TASK, format="onnx", num_envs=1, target_return=3000.0, checkpoint="last")
    times = alternate(
        {
            "eager": eager(agent, fed),
            "onnx": acting(OnnxPolicy(exported.data), fed),
            "agent": acting(agent, fed),
        },
        rounds,
    )
    microseconds = {name: 1e3 * milliseconds(times, name) / STEPS for name in times}
    return {
        "backbone": label,
        "eager torch, us": microseconds["eager"],
        "onnxruntime, us": microseconds["onnx"],
        "agent, us": microseconds["agent"],
        "onnxruntime / eager": ratio(times, "onnx", "eager"),
        "difference": exported.difference,
        "file, kB": len(exported.data) / 1024,
    }


def acting(policy: Any, fed: Recorded) -> Callable[[], None]:
    def episode() -> None:
        policy.reset(1, 3000.0)
        for observation, reward in zip(*fed, strict=True):
            policy.act(observation, reward)

    return episode


def eager(agent: DecisionTransformer, fed: Recorded) -> Callable[[], None]:
    policy = one_step_policy(agent, TASK, 1, step_by_step=False)
    begin = [torch.full(part.shape, part.fill, dtype=part.dtype) for part in policy.begin(3000.0)]

    @torch.inference_mode()
    def episode() -> None:
        state = begin
        for observation, reward in zip(*fed, strict=True):
            _, *state = policy(torch.from_numpy(observation), torch.from_numpy(reward), *state)

    return episode


def played(agent: DecisionTransformer, task: Task, data: bytes, num_episodes: int) -> str:
    """The agent and its exported policy in their environment, on the same seeds."""
    words = []
    for name, policy in (("the agent", agent), ("exported", OnnxPolicy(data))):
        found = judge(policy, task, num_episodes=num_episodes, num_envs=1, seed=20000)
        mean, score = np.mean(found["returns"]), found["score"]
        words.append(f"{name} {mean:.1f}, score {score['mean']:.2f} [{score['ci_low']:.2f}, {score['ci_high']:.2f}]")
    return f"In {task.env_id}, {num_episodes} episodes on the same seeds, mean return: {'; '.join(words)}."


def on_time(data: bytes, hertz: float, seconds: float) -> str:
    """The control loop of examples/, at its rate, on this machine as it is."""
    from control_loop import Policy, control

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        path.write_bytes(data)
        times = control(Policy(str(path)), hertz, int(hertz * seconds))
    words = {}
    for name, values in times.items():
        median, most, worst = (1e6 * np.percentile(values, share) for share in (50, 99, 100))
        words[name] = f"{median:.0f} us at the median, {most:.0f} us at 99 %, {worst:.0f} us at most"
    missed = int(np.sum(times["late"] + times["took"] > 1 / hertz))
    return (
        f"examples/control_loop.py at {hertz:g} Hz for {seconds:g} s: decisions began late by {words['late']}, and "
        f"took {words['took']}; {missed} of {len(times['late'])} missed their period."
    )


if __name__ == "__main__":
    main()
