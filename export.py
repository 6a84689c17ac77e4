"""Put the policy of a run into one file that needs no Python of ours: ONNX, or torch.export's.

python export.py run_dir=DIR                        writes DIR/policy.onnx
python play.py policy=DIR/policy.onnx               plays it with onnxruntime and numpy alone
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from config import command_line
from play import FORMAT_VERSION, OnnxPolicy, first_state

if TYPE_CHECKING:
    import torch

    from agents import DecisionTransformer
    from agents.one_step import OneStepPolicy, StatePart
    from envs.episodes import Episode, Episodes
    from envs.tasks import Task

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
CHECKED_STEPS, TOLERANCE = 1000, 1e-4
OPSET = 20


class ExportError(ValueError):
    """A policy that could not be exported, or that acts otherwise once it is. The message is for the user."""

    for_user = True


class Exported(NamedTuple):
    """The file's bytes, what it says about itself, and by how much its actions differ from the agent's at most."""

    data: bytes
    about: dict[str, Any]
    difference: float


@command_line("export")
def main(config: dict[str, Any]) -> None:
    """Exports the policy, holds it against the agent over a thousand steps, and writes it only if they agree."""
    from agents import load_agent
    from agents.devices import choose_device
    from envs.tasks import Task
    from evaluate import say_if_not_asked
    from run import best_checkpoint, read_json, write_bytes_whole

    choose_device("cpu", config["num_threads"])
    run_dir, format = Path(config["run_dir"]), config["format"]
    agent = load_agent(best_checkpoint(run_dir) if config["checkpoint"] == "best" else run_dir)
    agent.acting_mode = config["acting_mode"] or agent.acting_mode
    say_if_not_asked(agent, config["target_return"])
    task = Task.from_description(read_json(run_dir / "task.json"))
    exported = export(
        agent,
        task,
        format=format,
        num_envs=config["num_envs"],
        target_return=task.target_return if config["target_return"] is None else config["target_return"],
        checkpoint=config["checkpoint"],
    )
    out = Path(config["out"] or run_dir / f"policy{ENDINGS[format]}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(out, exported.data)
    if format == "torch":
        write_bytes_whole(out.with_suffix(".json"), json.dumps(exported.about, indent=1).encode())
    print(
        f"written: {out} ({len(exported.data) / 1024:,.0f} kB). Over {CHECKED_STEPS:,} steps its actions differ from "
        f"the agent's by at most {exported.difference:.1e}."
    )


def export(
    agent: DecisionTransformer, task: Task, *, format: str, num_envs: int, target_return: float, checkpoint: str
) -> Exported:
    """The policy as a file that acts as the agent does, for num_envs rows at once. Raises ExportError."""
    convert = to_onnx if format == "onnx" else to_torch
    ways = (False,) if agent.acting_mode == "carried" else (False, True)
    problems: list[Exception] = []
    for step_by_step in ways:
        policy = one_step_policy(agent, task, num_envs, step_by_step)
        about = description(policy, task, target_return, checkpoint)
        try:
            data = convert(policy, about)
        except ImportError as error:
            raise ExportError(f'{error}: pip install "minrnn-rl[export]"') from error
        except Exception as error:  # the parallel form of a backbone may hold what a format does not know
            problems.append(error)
        else:
            break
    else:
        raise ExportError(f"this agent cannot be written as {format}: {problems[-1]}") from problems[-1]
    difference = largest_difference(runner(data, format), about, recorded(agent, task, target_return))
    if not difference <= TOLERANCE:
        raise ExportError(
            f"nothing was written: fed what the agent saw over {CHECKED_STEPS} steps, the exported policy's actions "
            f"differ from the agent's by up to {difference:.1e}, more than {TOLERANCE:g}"
        )
    return Exported(data, about, difference)


def one_step_policy(agent: DecisionTransformer, task: Task, num_envs: int, step_by_step: bool) -> OneStepPolicy:
    from agents.one_step import OneStepPolicy

    return OneStepPolicy(agent, num_rows=num_envs, num_steps=task.max_episode_steps, step_by_step=step_by_step)


def description(policy: OneStepPolicy, task: Task, target_return: float, checkpoint: str) -> dict[str, Any]:
    """What a user of the file must know: its inputs in order, what the state is at first, and the task."""
    import torch

    types = {torch.float32: "float32", torch.float64: "float64", torch.int64: "int64"}

    def described(part: StatePart) -> dict[str, Any]:
        return {"name": part.name, "shape": list(part.shape), "type": types[part.dtype], "fill": part.fill}

    obs_dim = len(policy.agent.observation_mean)
    return {
        "format_version": FORMAT_VERSION,
        "inputs": [
            {"name": "observations", "shape": [policy.num_rows, obs_dim], "type": "float32"},
            {"name": "rewards", "shape": [policy.num_rows], "type": "float32"},
        ],
        "state": [described(part) for part in policy.begin(target_return)],
        "outputs": "actions, then the state for the next step, in the order of the state",
        "target_return": target_return,
        "acting_mode": policy.agent.acting_mode,
        "condition_on_return": policy.agent.condition_on_return,
        "checkpoint": checkpoint,
        "task": task.describe(),
    }


def to_onnx(policy: OneStepPolicy, about: dict[str, Any]) -> bytes:
    import onnx  # noqa: F401  (said to be missing before anything is computed)
    import onnxscript  # noqa: F401
    import torch

    names = [part["name"] for part in about["state"]]
    with quietly():
        program = torch.onnx.export(
            policy,
            example_inputs(about),
            input_names=["observations", "rewards", *names],
            output_names=["actions", *(f"next_{name}" for name in names)],
            opset_version=OPSET,
            dynamo=True,
        )
    assert program is not None
    program.optimize()
    model = program.model_proto
    del model.metadata_props[:]
    model.metadata_props.add(key="policy", value=json.dumps(about))
    return bytes(model.SerializeToString())


def to_torch(policy: OneStepPolicy, about: dict[str, Any]) -> bytes:
    import io

    import torch

    file = io.BytesIO()
    with quietly():
        program = torch.export.export(policy, example_inputs(about))
        torch.export.save(program, file)
    return file.getvalue()


@contextmanager
def quietly() -> Iterator[None]:
    """Without gradients, and without what exporters print and log about themselves."""
    import io
    import logging
    import warnings

    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of libraries that are not used here
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def example_inputs(about: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    import torch

    parts = [*({**part, "fill": 0.0} for part in about["inputs"]), *about["state"]]
    return tuple(torch.full(part["shape"], part["fill"], dtype=getattr(torch, part["type"])) for part in parts)


def runner(data: bytes, format: str) -> Callable[[list[Any]], list[Any]]:
    """call(inputs) -> outputs, numpy both, of the very bytes that would be written."""
    if format == "onnx":
        return OnnxPolicy(data).run
    import io

    import torch

    program = torch.export.load(io.BytesIO(data)).module()

    def run(inputs: list[Any]) -> list[Any]:
        with torch.no_grad():
            return [output.numpy() for output in program(*(torch.from_numpy(value) for value in inputs))]

    return run


def recorded(agent: DecisionTransformer, task: Task, target_return: float) -> Episodes:
    """At least CHECKED_STEPS steps of the agent in its environment; of noise that it observes, if it has none."""
    from contextlib import closing

    from envs.episodes import Episodes, Source
    from envs.recording import record

    source = Source("the agent's own", "")
    if task.env_id is None:
        episodes = range(-(-CHECKED_STEPS // task.max_episode_steps))
        played = [observing_noise(agent, task.max_episode_steps, target_return, seed) for seed in episodes]
        return Episodes.from_episodes(played, source, task.actions.get("num_actions"))
    with closing(task.make_environment()) as env:
        return record(agent, env, num_steps=CHECKED_STEPS, seed=0, source=source, target_return=target_return)


def observing_noise(agent: DecisionTransformer, num_steps: int, target_return: float, seed: int) -> Episode:
    """What the agent does when it observes noise with the mean and the spread of its data."""
    import numpy as np

    from envs.episodes import Episode

    noise = np.random.default_rng(seed).standard_normal((num_steps, len(agent.observation_mean)))
    observations = (agent.observation_mean.numpy() + agent.observation_std.numpy() * noise).astype(np.float32)
    rewards = np.full(num_steps, target_return / num_steps, np.float32)
    agent.reset(1, target_return)
    earned = np.concatenate([[0.0], rewards[:-1]])
    actions = [
        agent.act(observed[None], reward[None])[0] for observed, reward in zip(observations, earned, strict=True)
    ]
    return Episode(observations, np.stack(actions), rewards, terminated=False, truncated=True)


def largest_difference(run: Callable[[list[Any]], list[Any]], about: dict[str, Any], episodes: Episodes) -> float:
    """The largest difference of an action from those recorded; each row of the policy is fed the same."""
    import numpy as np

    num_rows, difference = about["inputs"][1]["shape"], 0.0
    for episode in episodes:
        state, reward = first_state(about), 0.0
        for observation, action, earned in zip(episode.observations, episode.actions, episode.rewards, strict=True):
            rows = np.repeat(observation[None].astype(np.float32), num_rows, axis=0)
            actions, *state = run([rows, np.full(num_rows, reward, np.float32), *state])
            difference = max(difference, float(np.abs(actions - action).max()))
            reward = earned
    return difference


if __name__ == "__main__":
    main()
