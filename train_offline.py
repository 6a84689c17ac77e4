"""Train an agent from recorded episodes, score it in its environment, and leave a run directory that explains itself.

python train_offline.py task=hopper_demo backbone=min_lstm seed=1 train.num_steps=2000
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from config import command_line, run_directory

if TYPE_CHECKING:  # what is heavy is imported where it is used, so that a wrong override is answered at once
    from collections.abc import Iterator

    import torch

    from agents import WindowSampler
    from agents.learner import Learner
    from agents.parallel import Ranks
    from envs import Episodes
    from envs.tasks import Task
    from interruptions import Interruptions
    from metrics import MetricsLog
    from run import RunDirectory


@command_line("train_offline")
def main(config: dict[str, Any]) -> None:
    """Runs this config in its directory, or goes on with it, or says that it is finished."""
    from agents.devices import advising_on_memory
    from agents.parallel import joined
    from profiling import memory_advice
    from run import RunDirectory
    from summary import print_results

    with joined() as ranks, RunDirectory(run_directory(config), config, writes=ranks.is_first) as run:
        results = ranks.first(run.results)
        if results is None:
            with advising_on_memory(memory_advice(config)):
                results = train_offline(config, run, ranks)
        elif ranks.is_first:
            print(f"{run.path} is finished: nothing left to do{', or to trace' if config['profile_steps'] else ''}.")
        if ranks.is_first:
            print_results(results, run.path)


def train_offline(config: dict[str, Any], run: RunDirectory, ranks: Ranks) -> dict[str, Any]:
    """Load, build, train, evaluate, report: the whole story. Gives the content of results.json."""
    from agents.devices import choose_device
    from evaluate import judge
    from interruptions import Interruptions
    from metrics import MetricsLog, NoLog
    from profiling import peak_memory_mb
    from run import restore
    from summary import draw_learning_curve

    device = choose_device(config["device"], config["num_threads"])
    task, episodes = load_task(config)
    learner = build_learner(config, task, episodes, device, ranks)
    if ranks.is_first:
        for note in notes(config, task, learner.sampler):
            print(f"note: {note}", file=sys.stderr)
    first_step = restore(run, learner)
    run.begin(task)
    began = time.perf_counter()
    with Interruptions() as interruptions, MetricsLog(run.path, first_step) if run.writes else NoLog() as log:
        train(config, task, learner, first_step, run, log, interruptions)
        seconds = time.perf_counter() - began
        results = judge(learner.acting_agent, task, ranks=ranks, **judging_settings(config, "num_episodes"))
        results["seconds"]["training"] = seconds
        results["peak_memory_mb"] = peak_memory_mb()
        results["weights"] = {"num_parameters": learner.num_parameters, "ema_decay": config["optimizer"]["ema_decay"]}
        if run.writes:
            log.write_results(config, results)
            log.write_figure("learning_curve", draw_learning_curve(run.path, results), config["train"]["num_steps"])
        run.finish(results)
    return results


def train(
    config: dict[str, Any],
    task: Task,
    learner: Learner,
    first_step: int,
    run: RunDirectory,
    log: MetricsLog,
    interruptions: Interruptions,
) -> None:
    """Every gradient step, and what is due after some of them: a log line, a point of the curve, a checkpoint.

    The checkpoint comes last: where a run goes on from it, all else of that step has been done.
    """
    from agents.acting import choose_acting_mode
    from evaluate import judge
    from profiling import Pace, traced
    from run import is_due
    from summary import progress_over

    settings, last_step, ranks = config["train"], config["train"]["num_steps"], learner.ranks
    trace, pace = traced(run.path / f"trace_{ranks.rank}.json", config["profile_steps"]), Pace(first_step)
    with trace as trace_step, progress_over(first_step, last_step, shown=run.writes) as progress:
        for step in range(first_step + 1, last_step + 1):
            metrics = learner.update(step - 1)
            trace_step()
            interruptions.agree(ranks.largest)
            progress.advance()
            if is_due(step, settings["log_every"], last_step):
                values = ranks.mean(metrics)
                log.write(step, "train", values)
                log.show(step, "speed", pace.measure(step, learner.agent.device))
                progress.show(values["loss"])
            is_checkpoint = is_due(step, settings["checkpoint_every"], last_step)
            if is_checkpoint and config["agent"]["acting_mode"] == "auto":
                choose_acting_mode(learner.acting_agent, learner.sampler)
                learner.acting_agent.acting_mode = ranks.first(learner.acting_agent.acting_mode)
            if is_due(step, settings["evaluate_every"]) and step < last_step and task.env_id is not None:
                results = judge(
                    learner.acting_agent, task, ranks=ranks, **judging_settings(config, "num_curve_episodes")
                )
                log.write_score(step, results)
                progress.say(step, results)
                is_checkpoint |= log.best_step == step
            if is_checkpoint or interruptions.asked_to_save:
                with interruptions.saving():
                    log.flush()
                    run.save(learner, step, log.best_step)
            interruptions.end_if_asked()


def load_task(config: dict[str, Any]) -> tuple[Task, Episodes]:
    """The recorded episodes and the task they belong to; what the command line leaves open, the task's file says."""
    from envs import load_episodes
    from envs.tasks import describe_task

    dataset, env_id, target_return = (
        config[key] if config[key] is not None else config["task"][key]
        for key in ("dataset", "env_id", "target_return")
    )
    episodes = load_episodes(dataset, drop_invalid=config["drop_invalid_episodes"])
    columns = config["observation_columns"]
    if columns is not None:
        episodes = episodes.select_columns(columns)
    play = config["evaluate"]["num_episodes"] > 0
    task = describe_task(episodes, env_id=env_id, target_return=target_return, play=play, observation_columns=columns)
    return task, episodes


def notes(config: dict[str, Any], task: Task, sampler: WindowSampler) -> Iterator[str]:
    """What a user may not expect of this config on this data."""
    episodes, kept = sampler.episodes, sampler.kept
    if len(kept) < len(episodes):
        yield (
            f"learns from {len(kept):,} of {len(episodes):,} episodes, {episodes.lengths[kept].sum():,} of "
            f"{episodes.num_steps:,} steps, those of returns from {episodes.returns[kept].min():.0f} on; "
            "agent=behavior_cloning learns from all"
        )
    doubt = task.doubt_about_target()
    if config["agent"]["condition_on_return"] and doubt:
        yield doubt
    if config["target_return"] is not None and not config["agent"]["condition_on_return"]:
        yield "this agent is asked for no return; target_return is for such as agent=decision_transformer"


def build_learner(
    config: dict[str, Any], task: Task, episodes: Episodes, device: torch.device, ranks: Ranks | None = None
) -> Learner:
    """A new agent with its sampler and optimizer: choices from the config, the rest from the task."""
    import torch

    from agents import WindowSampler, build_agent
    from agents.learner import Learner
    from agents.normalization import observation_statistics

    settings = dict(config["agent"])
    spec = {"backbone": config["backbone"], "actions": task.actions, "settings": settings}
    spec |= {key: settings.pop(key) for key in ("name", "num_members")}
    timestep_embedding = settings.pop("timestep_embedding")
    imitated = {key: settings.pop(key) for key in ("top_fraction", "top_return", "earliest_of")}
    imitated["others"] = settings.pop("others", 0.0)
    if settings["acting_mode"] == "auto":
        settings["acting_mode"] = "carried"  # until the first checkpoint, when it is measured
    settings |= observation_statistics(episodes)
    settings["return_scale"] = config["task"]["return_scale"] or float(abs(episodes.returns).max()) or 1.0
    settings["max_timesteps"] = task.max_episode_steps if timestep_embedding else None
    torch.manual_seed(config["seed"])
    agent = build_agent(spec).to(device)
    sampler = WindowSampler(
        episodes,
        context_length=settings["context_length"],
        packed=config["train"]["packed"],
        **imitated,
    )
    return Learner(
        agent,
        sampler,
        seed=config["seed"],
        batch_size=config["train"]["batch_size"],
        num_steps=config["train"]["num_steps"],
        when_not_finite=config["train"]["when_not_finite"],
        accumulate=config["train"]["accumulate"],
        precision=config["train"]["precision"],
        compile=config["train"]["compile"],
        record=config["train"]["record"],
        ranks=ranks,
        **config["optimizer"],
    )


def judging_settings(config: dict[str, Any], episodes_key: str) -> dict[str, Any]:
    """The keywords of `judge` for the final score or for a point of the learning curve."""
    from evaluate import judging

    return judging({**config["evaluate"], "num_episodes": config["evaluate"][episodes_key]})


if __name__ == "__main__":
    main()
