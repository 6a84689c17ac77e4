"""Record experience of any Gymnasium environment, in D4RL's recipe or of a policy of one's own.

python collect.py env_id=HalfCheetah-v5 train.num_steps=300000
python collect.py env_id=Hopper-v5 policy=runs/hopper_demo/... num_steps=20000
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ConfigError, command_line

if TYPE_CHECKING:
    import gymnasium

    from envs.episodes import Episodes
    from envs.evaluate import Policy
    from experts import Learning

KINDS = ("random", "medium", "medium_replay", "medium_expert", "expert", "learning")
SEEDS_A_KIND, SEEDS_A_RUN = 1_000_000, 100_000
LEARNING_NOISE = 0.05  # of the two best policies in the kind `learning`


@command_line("collect")
def main(config: dict[str, Any]) -> None:
    """Learns or loads a policy, records it, and writes one file a kind; files that are there already stay."""
    from agents.devices import choose_device
    from envs.environments import make_environment

    check(config)
    choose_device(config["device"], config["num_threads"])
    with closing(make_environment(config["env_id"])) as env:
        recordings = record_kinds(config, env) if config["policy"] == "sac" else record_policy(config, env)
        for kind, episodes in recordings:
            write(config, kind, episodes)


def check(config: dict[str, Any]) -> None:
    """Raises ConfigError for what would only be found out after hours of learning."""
    for key, known in (("kinds", KINDS), ("formats", ("d4rl", "minari"))):
        if not config[key] or set(config[key]) - set(known):
            raise ConfigError(f"{key} must be some of {', '.join(known)}; got {config[key]}")
    if config["num_steps"] < 1 or config["train"]["num_steps"] < 1 or config["train"]["checkpoint_every"] < 1:
        raise ConfigError("num_steps, train.num_steps and train.checkpoint_every must be at least 1")


def record_policy(config: dict[str, Any], env: gymnasium.Env[Any, Any]) -> Iterator[tuple[str, Episodes]]:
    """The one set of a policy that is there already."""
    from envs.episodes import Source
    from envs.recording import record

    policy, target_return, what = load_policy(config, env)
    kind = "random" if config["policy"] == "random" else "own"
    if not left_to_do(config, [kind]):
        return
    source = Source("", "", config["env_id"], notes=(what,))
    with progress_of(kind, config["num_steps"]) as advance:
        yield (
            kind,
            record(
                policy,
                env,
                num_steps=config["num_steps"],
                seed=config["seed"] * SEEDS_A_RUN,
                source=source,
                target_return=target_return,
                on_episode=advance,
            ),
        )


def load_policy(config: dict[str, Any], env: gymnasium.Env[Any, Any]) -> tuple[Policy, float, str]:
    """A policy, the return to ask of it, and what it is in words. Raises ConfigError."""
    from envs.recording import RandomPolicy
    from envs.tasks import Task
    from run import read_json

    name, asked = config["policy"], config["target_return"]
    if name == "random":
        return RandomPolicy(env.action_space, config["seed"]), 0.0, "actions drawn uniformly"
    if (run_dir := Path(name).expanduser()).is_dir():
        from agents import load_agent

        agent = load_agent(run_dir)
        task = Task.from_description(read_json(run_dir / "task.json")).in_environment(config["env_id"])
        target_return = task.target_return if asked is None else asked
        asked_for = f" asked for a return of {target_return:g}" if agent.condition_on_return else ""
        return agent, target_return, f"{agent.spec['name']}{asked_for}"
    if re.fullmatch(r"[\w.]+:\w+", name):
        module, function = name.split(":")
        try:
            policy = getattr(importlib.import_module(module), function)(env)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"policy={name} cannot be imported: {error}") from error
        return policy, 0.0 if asked is None else asked, f"{name}"
    raise ConfigError(f"policy must be sac, random, a run directory or module:function; got {name!r}")


def record_kinds(config: dict[str, Any], env: gymnasium.Env[Any, Any]) -> Iterator[tuple[str, Episodes]]:
    """What D4RL recorded for each of its environments: random, medium, medium-replay, medium-expert and expert."""
    from envs.recording import join
    from experts import Learning

    kinds = left_to_do(config, config["kinds"])
    if not kinds:
        return
    learning = Learning(env, Path(config["out"]) / f"{file_stem(config)}-sac-seed{config['seed']}", config["seed"])
    learn(config, learning)
    best = max(learning.curve, key=lambda step: learning.curve[step])
    parts: dict[str, Episodes] = {}

    def part(kind: str) -> Episodes:
        if kind not in parts:
            parts[kind] = record_kind(config, env, learning, kind, medium, best)
        return parts[kind]

    medium = best  # until it is known what a random policy earns, of which the next line needs to know nothing
    random_return, expert_return = (float(part(kind).returns.mean()) for kind in ("random", "expert"))
    medium = medium_step(config, learning, random_return)
    for kind in kinds:
        if kind == "medium_expert":
            halves = [part("medium"), part("expert")]
            episodes = join(halves, replace(halves[0].source, notes=(*halves[0].source.notes, *halves[1].source.notes)))
        else:
            episodes = part(kind)
        reference = (random_return, expert_return) if random_return < expert_return else None
        yield kind, replace(episodes, source=replace(episodes.source, reference=reference))


def learn(config: dict[str, Any], learning: Learning) -> None:
    """SAC up to the number of steps asked for, from where it was left."""
    import numpy as np

    from envs.environments import make_environment
    from envs.evaluate import evaluate

    def judge(policy: Policy) -> float:
        return float(
            np.mean(
                evaluate(
                    policy,
                    lambda: make_environment(config["env_id"]),
                    num_episodes=config["train"]["num_episodes"],
                    target_return=0.0,
                    seed=0,
                    num_envs=config["train"]["num_episodes"],
                ).returns
            )
        )

    total, done = config["train"]["num_steps"], max(learning.curve, default=0)
    with progress_of("learning", total, done) as advance:

        def progress(step: int, mean_return: float) -> None:
            nonlocal done
            advance(step - done, f"learning, return {mean_return:.0f}")
            done = step

        learning.run(total, config["train"]["checkpoint_every"], judge, progress)


def medium_step(config: dict[str, Any], learning: Learning, random_return: float) -> int:
    """The first policy that went train.medium of the way from random to the best, if only the best itself."""
    curve, best_return = learning.curve, max(learning.curve.values())
    wanted = random_return + config["train"]["medium"] * max(0.0, best_return - random_return)
    return min(step for step, mean_return in curve.items() if mean_return >= min(wanted, best_return))


def record_kind(
    config: dict[str, Any], env: gymnasium.Env[Any, Any], learning: Learning, kind: str, medium: int, best: int
) -> Episodes:
    """One kind but medium_expert, which is two others."""
    from envs.episodes import Source
    from envs.recording import RandomPolicy, join, record

    seed, num_steps = KINDS.index(kind) * SEEDS_A_KIND + config["seed"] * SEEDS_A_RUN, config["num_steps"]
    about = Source("", "", config["env_id"])

    def play(policy: Policy, steps: int, first: int, note: str) -> Episodes:
        with progress_of(kind, steps) as advance:
            source = replace(about, notes=(note,))
            return record(policy, env, num_steps=steps, seed=seed + first, source=source, on_episode=advance)

    if kind == "random":
        return play(RandomPolicy(env.action_space, seed), num_steps, 0, "random: actions drawn uniformly")
    if kind == "medium_replay":
        note = f"medium_replay: what SAC met in its first {medium} steps, the last episode left out"
        return learning.replay(medium, replace(about, notes=(note,)))
    if kind == "learning":
        steps = sorted(learning.curve)
        rounds: list[tuple[int, int, float | None]] = [(step, num_steps // len(steps), None) for step in steps]
        two_best = sorted(steps, key=lambda step: learning.curve[step])[-2:]
        rounds += [(step, num_steps // 4, LEARNING_NOISE) for step in two_best]
        parts = [
            play(learning.policy(step, seed + i, noise), max(1, share), i * 1000, "")
            for i, (step, share, noise) in enumerate(rounds)
        ]
        note = (
            f"learning: SAC after each of {len(steps)} checkpoints, drawing its actions; then the likeliest actions of "
            f"the best two, after {' and '.join(map(str, two_best))} steps, with noise of {LEARNING_NOISE}"
        )
        return join(parts, replace(about, notes=(note,)))
    step = medium if kind == "medium" else best
    note = (
        f"{kind}: SAC after {step} steps, drawing its actions; its likeliest ones returned {learning.curve[step]:.0f}"
    )
    return play(learning.policy(step, seed), num_steps, 0, note)


def left_to_do(config: dict[str, Any], kinds: list[str]) -> list[str]:
    """The kinds of which a file is still missing."""
    left = [kind for kind in kinds if not all(exists(config, kind, format) for format in config["formats"])]
    for kind in kinds:
        if kind not in left:
            print(f"{place(config, kind, config['formats'][0])} is there already")
    return left


def write(config: dict[str, Any], kind: str, episodes: Episodes) -> None:
    from envs.writing import write_d4rl, write_minari

    for format in config["formats"]:
        where = place(config, kind, format)
        if not exists(config, kind, format):
            named = replace(episodes, source=replace(episodes.source, dataset_id=f"{file_stem(config)}-{kind}"))
            if format == "d4rl":
                write_d4rl(named, Path(where))
            else:
                write_minari(named, where)
        print(
            f"{where}: {len(episodes)} episodes, {episodes.num_steps} steps, mean return {episodes.returns.mean():.1f}"
        )


def exists(config: dict[str, Any], kind: str, format: str) -> bool:
    where = place(config, kind, format)
    if format == "d4rl":
        return Path(where).is_file()
    from minari.storage.datasets_root_dir import get_dataset_path

    return bool((get_dataset_path(where) / "data" / "metadata.json").is_file())


def place(config: dict[str, Any], kind: str, format: str) -> str:
    """A path for d4rl, an id for minari."""
    if format == "d4rl":
        return str(Path(config["out"]).expanduser() / f"{file_stem(config)}-{kind}.hdf5")
    return f"own/{file_stem(config).lower()}/{kind.replace('_', '-')}-v0"


def file_stem(config: dict[str, Any]) -> str:
    return re.sub(r"[^\w-]", "-", config["env_id"])


@contextmanager
def progress_of(what: str, total: int, done: int = 0) -> Iterator[Any]:
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total, completed=done)

        def advance(num_steps: int, description: str = what) -> None:
            progress.update(task, advance=num_steps, description=description)

        yield advance


if __name__ == "__main__":
    main()
