"""Small recorded data and agents that several test modules share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from agents import DecisionTransformer, build_agent
from agents.normalization import observation_statistics
from envs import Episode, Episodes, Source

# Every mixer there is, with the keywords that its yaml has.
BACKBONES: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text())["mixer"]
    for path in (Path(__file__).parents[1] / "configs" / "backbone").glob("[!_]*.yaml")
}


def recorded(lengths: tuple[int, ...] = (7, 1, 30, 12), *, discrete: bool = False, seed: int = 0) -> Episodes:
    """Episodes of these lengths with 4 observation columns and 2 action columns, or 3 discrete actions."""
    rng = np.random.default_rng(seed)
    episodes = []
    for length in lengths:
        actions = rng.integers(3, size=length) if discrete else rng.uniform(-2, 2, (length, 2)).astype(np.float32)
        observations = (5 + 3 * rng.standard_normal((length, 4))).astype(np.float32)
        rewards = rng.standard_normal(length).astype(np.float32)
        episodes.append(Episode(observations, actions, rewards, terminated=True, truncated=False))
    return Episodes.from_episodes(episodes, Source("toy", ""), num_actions=3 if discrete else None)


def new_agent(episodes: Episodes, backbone: str = "min_gru", **settings: Any) -> DecisionTransformer:
    """A small untrained agent for these episodes, without dropout."""
    torch.manual_seed(0)
    actions: dict[str, Any] = {"num_actions": 3} if episodes.is_discrete else {"low": [-2.0, -2.0], "high": [2.0, 2.0]}
    stack = {"hidden_size": 16, "num_layers": 2, "mlp_ratio": 2.0, "dropout": 0.0, "mixer": BACKBONES[backbone]}
    usual: dict[str, Any] = {
        "return_scale": 10.0,
        "context_length": 5,
        "token_layout": "merged",
        "condition_on_return": True,
        "max_timesteps": None,
        "acting_mode": "carried",
    }
    return build_agent(
        {
            "name": "decision_transformer",
            "backbone": {"name": backbone, **stack},
            "actions": actions,
            "settings": {**usual, **observation_statistics(episodes), **settings},
        }
    )
