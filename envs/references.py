"""What a score means: the returns that count as 0 and as 100, where they come from, and the scores they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.episodes import Source

D4RL_INFOS = "D4RL (Farama-Foundation/D4RL, d4rl/infos.py)"
D4RL_PORT = f"{D4RL_INFOS}, measured in its own environment, of which this is gymnasium-robotics' port"
SUCCESS_RATE = "the share of episodes that reach the goal, as D4RL scores mazes"


class Reference(NamedTuple):
    """What counts as 0 and as 100, where that comes from, and of what it is: an episode's return, or its success."""

    min: float
    max: float
    source: str
    of: Literal["return", "success"] = "return"


# Environment family -> what a random and an expert policy reach there, and who measured it.
REFERENCE_SCORES: dict[str, Reference] = {
    "halfcheetah": Reference(-280.178953, 12135.0, D4RL_INFOS),
    "hopper": Reference(-20.272305, 3234.3, D4RL_INFOS),
    "walker2d": Reference(1.629008, 4592.3, D4RL_INFOS),
    "ant": Reference(-325.6, 3879.7, D4RL_INFOS),
    "adroithandpen": Reference(96.262799, 3076.8331017826877, D4RL_PORT),
    "adroithandhammer": Reference(-274.856578, 12794.134825156867, D4RL_PORT),
    "adroithanddoor": Reference(-56.512833, 2880.5693087298737, D4RL_PORT),
    "adroithandrelocate": Reference(-6.425911, 4233.877797728884, D4RL_PORT),
    "frankakitchen": Reference(0.0, 4.0, D4RL_PORT),
}


def reference_scores(env_id: str, source: Source) -> Reference | None:
    """What counts as 0 and 100 in env_id: the dataset's own scores if they are of env_id, else D4RL's, else None."""
    if re.match(r"(AntMaze|PointMaze)_(?!.*Dense)", env_id):
        return Reference(0.0, 1.0, SUCCESS_RATE, of="success")
    if source.reference is not None and source.env_id in (None, env_id):
        return Reference(*source.reference, source.reference_source or f"metadata of {source.dataset_id}")
    return REFERENCE_SCORES.get(re.sub(r"-v\d+$", "", env_id).lower())


def normalized_score(values: ArrayLike, reference: Mapping[str, Any]) -> NDArray[np.float64]:
    """100 * (value - min) / (max - min), as D4RL does; reference: as a task holds it, {min, max, source, of}."""
    low, high = float(reference["min"]), float(reference["max"])
    return 100 * (np.asarray(values, dtype=np.float64) - low) / (high - low)


def score_of_return(value: float, reference: Mapping[str, Any] | None) -> str:
    """A return's score as a table shows it; empty where there is none, or scores are of something else."""
    if reference is None or reference["of"] != "return":
        return ""
    return f"{normalized_score(value, reference):.1f}"
