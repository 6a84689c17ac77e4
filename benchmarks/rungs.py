"""The rungs of the ladder: what is compared, on which sets and seeds, and where each run lies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from standing_comparison import SETS

COMMON = "train.evaluate_every=0 train.checkpoint_every=2000 num_threads=1"  # 2,000 steps are the default
SCREENED, SCREENING_SEEDS = ["hopper demo", "hopper medium"], [0, 1, 2]
REPLAY = "python collect.py env_id=Walker2d-v5 kinds=[learning] train.num_steps=40000 num_steps=60000 out=DATA_DIR"
EVERY_SET = {  # halfcheetah last, which no choice was made on
    **{name: found for name, found in SETS.items() if not name.startswith("halfcheetah")},
    "walker2d replay": ("any", "Walker2d-v5-learning.hdf5", "Walker2d-v5"),  # its target: the best return recorded
    **{name: found for name, found in SETS.items() if name.startswith("halfcheetah")},
}


class Rung(NamedTuple):
    """Words of config on top of the base, and what became of them: kept (the default, or an option), or not.

    Where they name an agent, or an experiment that does, they stand alone.
    """

    words: str
    outcome: str = ""


BASE_AGENT = "agent=filtered_bc"
BASE, GUIDED, ENSEMBLE = "base", "value guided", "the ensemble"
LONG_AS_GUIDED = "base, in value guided's time"
LONG_AS_ENSEMBLE = "base, in the ensemble's time"
CLONING = "agent=behavior_cloning"
DT = (
    "agent=decision_transformer backbone=attention agent.context_length=20 train.batch_size=62 agent.acting_mode=window"
)
RUNGS: dict[str, Rung] = {
    BASE: Rung(BASE_AGENT, "a member of the default"),
    # Baselines
    "asked for a return, all episodes": Rung("agent=decision_transformer", "the default before; an agent"),
    "behaviour cloning": Rung(CLONING, "baseline"),
    "10 % behaviour cloning": Rung(f"{CLONING} agent.top_fraction=0.1", "baseline"),
    "attention, windows of 20": Rung(DT, "baseline"),
    "IQL, 10,000 steps of 256 pairs": Rung("experiment=iql", "baseline"),
    "TD3+BC, 10,000 steps of 256 pairs": Rung("experiment=td3_bc", "baseline"),
    **{
        f"{name}, {word} the learning rate": Rung(f"{words} optimizer.learning_rate={rate}", "a baseline's trial")
        for name, words in {
            "behaviour cloning": CLONING,
            "10 % behaviour cloning": f"{CLONING} agent.top_fraction=0.1",
            "attention, windows of 20": DT,
        }.items()
        for word, rate in (("half", 0.0005), ("twice", 0.002))
    },
    **{
        f"IQL, {weight} times the advantage": Rung(
            f"experiment=iql agent.advantage_weight={weight}", "a baseline's trial"
        )
        for weight in (100, 1000)
    },
    **{f"TD3+BC, eta {eta}": Rung(f"experiment=td3_bc agent.eta={eta}", "a baseline's trial") for eta in (0.5, 1)},
    "IQL, in the base's time": Rung("experiment=iql agent.advantage_weight=100 train.num_steps=2200", "equal time"),
    "TD3+BC, in the base's time": Rung("experiment=td3_bc agent.eta=0.5 train.num_steps=2200", "equal time"),
    LONG_AS_GUIDED: Rung("train.num_steps=9600", "equal time"),
    LONG_AS_ENSEMBLE: Rung("train.num_steps=5100", "equal time"),
    # Which episodes are imitated
    "all episodes": Rung("agent.top_fraction=1", "an option"),
    "the best tenth alone": Rung("agent.top_return=null", "an option"),
    "all steps alike": Rung("agent.earliest_of=1", "the default before"),
    "the earliest of 2": Rung("agent.earliest_of=2", "an option"),
    "the earliest of 5": Rung("agent.earliest_of=5", "an option"),
    # What is learnt of an action
    "likelihood, with a spread": Rung("agent.action_loss=likelihood", "an option"),
    "absolute error": Rung("agent.action_loss=absolute", "an option"),
    # What the agent sees
    "asked for a return": Rung("agent.condition_on_return=true", "an option"),
    "not its last action": Rung("agent.previous_action=false", "an option"),
    "no memory": Rung("backbone=mlp", "an option"),
    "noise of 0.05 on observations": Rung("agent.observation_noise=0.05", "an option"),
    "windows of 20": Rung("agent.context_length=20 train.batch_size=62", "an option"),
    "windows of 200": Rung("agent.context_length=200 train.batch_size=6", "an option"),
    "interleaved tokens": Rung("agent.token_layout=interleaved", "an option"),
    # Architecture
    "causal convolution of 4": Rung("backbone.conv_width=4", "an option"),
    "width 128": Rung("backbone.hidden_size=128", "an option"),
    # Training
    "half the learning rate": Rung("optimizer.learning_rate=0.0005", "an option"),
    "twice the learning rate": Rung("optimizer.learning_rate=0.002", "an option"),
    "cosine schedule": Rung("optimizer.schedule=cosine", "an option"),
    "dropout 0.2": Rung("backbone.dropout=0.2", "an option"),
    "average of 0.999": Rung("optimizer.ema_decay=0.999", "an option"),
    "two like members": Rung("agent.num_members=2", "an option"),
    "four like members": Rung("agent.num_members=4", "an option"),
    # Value guidance
    GUIDED: Rung("agent=value_guided", "the default of `value_guided`"),
    ENSEMBLE: Rung("agent=ensemble", "the default"),
    "value guided, one member": Rung(
        "agent=value_guided agent.num_members=1 agent.action_loss=likelihood agent.eta=0.05 agent.earliest_of=1",
        "the default of `value_guided` before",
    ),
}


FINALISTS = {  # the base and the baselines as their best trial has them, and the seeds that no choice was made on
    "supervised": (
        [60, 61, 62],
        (
            BASE,
            ENSEMBLE,
            "likelihood, with a spread",
            "all steps alike",
            "behaviour cloning, half the learning rate",
            "10 % behaviour cloning",
            "attention, windows of 20, half the learning rate",
        ),
    ),
    "best single words": (
        [*range(90, 95)],
        (BASE, ENSEMBLE, "half the learning rate", "dropout 0.2"),
    ),
    "with values": (
        [*range(80, 95)],
        (GUIDED, ENSEMBLE, BASE, LONG_AS_ENSEMBLE, LONG_AS_GUIDED, "IQL, 100 times the advantage", "TD3+BC, eta 0.5"),
    ),
}


class Cell(NamedTuple):
    """One run."""

    set_name: str
    rung: str
    seed: int

    def run_dir(self, runs: Path) -> Path:
        name = "".join(letter if letter.isalnum() else "_" for letter in self.rung)
        return runs / self.set_name.replace(" ", "_") / f"{name}-seed{self.seed}"

    def words(self, data_dir: str) -> list[str]:
        task, file, env_id = EVERY_SET[self.set_name]
        data = f"dataset={data_dir}/{file} env_id={env_id}" if file else ""
        words = RUNGS[self.rung].words
        agent = "" if words.startswith(("agent=", "experiment=")) else BASE_AGENT
        return f"task={task} {data} {COMMON} seed={self.seed} {agent} {words}".split()

    def results(self, runs: Path) -> dict[str, Any] | None:
        """What the run came to; None where it is not there, or not finished."""
        path = self.run_dir(runs) / "results.json"
        found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.is_file() else None
        return found


def matrix(rung: str, sets: Sequence[str], seeds: Sequence[int], runs: Path) -> Any:
    """Scores [seeds, sets], nan where a run is missing."""
    found = [[Cell(name, rung, seed).results(runs) for name in sets] for seed in seeds]
    return np.array([[run["score"]["mean"] if run else np.nan for run in row] for row in found])
