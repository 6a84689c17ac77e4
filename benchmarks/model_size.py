"""What a larger model costs: a whole training step, its memory, a save and a decision, against the width.

python benchmarks/model_size.py [--hidden-sizes 64 128 256 512 1024 2048] [--precision bf16] [--accumulate 5]

Each point is a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import arguments, axes, report
from train_step import ACTION_DIM, OBS_DIM, count, our_agent

from agents.checkpoint import save_checkpoint
from agents.learner import Learner
from agents.windows import WindowSampler
from envs import Episode, Episodes, Source


def main() -> None:
    chosen = arguments(
        __doc__,
        hidden_sizes=[64, 128, 256, 512, 1024, 1536],
        batch_size=25,
        context_length=50,
        precision="float32",
        accumulate=1,
        dropout=0.1,
        rounds=3,
        point=0,
    )
    if chosen.point:
        print(json.dumps(measure(chosen.point, chosen)))
        return
    rows = []
    for hidden_size in chosen.hidden_sizes:
        command = [sys.executable, *sys.argv, "--point", str(hidden_size)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    note = (
        f"min_gru, three layers, {chosen.batch_size} windows of {chosen.context_length} steps in {chosen.accumulate} "
        f"part{'s' * (chosen.accumulate > 1)}, {chosen.precision}: forward, backward, AdamW and the running average. "
        "Memory: the peak of training above that of the imports. Save: a checkpoint with optimizer state, on disk."
    )
    report("model_size", rows, chosen, note=note, figure=draw(rows))


def measure(hidden_size: int, chosen: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((20_000, OBS_DIM)).astype(np.float32)
    actions = rng.uniform(-1, 1, (20_000, ACTION_DIM)).astype(np.float32)
    episode = Episode(observations, actions, np.ones(20_000, np.float32), terminated=False, truncated=True)
    episodes = Episodes.from_episodes([episode], Source("noise", ""))
    imported = peak_megabytes()
    agent: Any = our_agent("min_gru", "merged", chosen, hidden_size)
    learner = Learner(
        agent,
        WindowSampler(episodes, context_length=chosen.context_length),
        seed=0,
        batch_size=chosen.batch_size,
        num_steps=100,
        learning_rate=1e-4,
        warmup_steps=1,
        schedule="constant",
        weight_decay=0.0,
        max_grad_norm=0.25,
        ema_decay=0.998,
        accumulate=chosen.accumulate,
        precision=chosen.precision,
    )
    learner.update(0)
    steps = [timed(lambda step=step: learner.update(step)) for step in range(1, chosen.rounds + 1)]
    memory = peak_megabytes() - imported
    with tempfile.TemporaryDirectory() as folder:
        weights = learner.acting_agent.state_dict()
        saved = timed(lambda: save_checkpoint(Path(folder), 1, agent.spec, weights, learner.state_dict(), keep=1))
    learner.acting_agent.reset(1, 1.0)
    observation, reward = np.zeros((1, OBS_DIM), np.float32), np.zeros(1)
    acting = [timed(lambda: learner.acting_agent.act(observation, reward)) for _ in range(50)]
    return {
        "width": hidden_size,
        "parameters": f"{count(agent):,}",
        "ms a step": 1e3 * float(np.median(steps)),
        "memory, MB": memory,
        "save, ms": 1e3 * saved,
        "a decision, us": 1e6 * float(np.median(acting)),
    }


def timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def draw(rows: list[dict[str, Any]]) -> Any:
    figure, (left, right) = axes(2)
    parameters = [float(row["parameters"].replace(",", "")) for row in rows]
    for axis, column in ((left, "ms a step"), (right, "memory, MB")):
        axis.loglog(parameters, [row[column] for row in rows], "o-")
        axis.set(xlabel="parameters", ylabel=column)
    return figure


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
