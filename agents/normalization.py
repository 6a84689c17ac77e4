"""What observations are normalised by."""

import numpy as np

from envs.episodes import Episodes

ROWS_AT_ONCE = 1 << 16


def observation_statistics(episodes: Episodes) -> dict[str, list[float]]:
    """Mean and standard deviation of each observation column, as the agent's keywords; constant columns get 1."""
    blocks = [slice(first, first + ROWS_AT_ONCE) for first in range(0, episodes.num_steps, ROWS_AT_ONCE)]
    observations, num_steps = episodes.observations, episodes.num_steps  # which may be larger than memory
    mean = np.sum([observations[rows].sum(axis=0, dtype=np.float64) for rows in blocks], axis=0) / num_steps
    deviations = (np.square(observations[rows] - mean).sum(axis=0) for rows in blocks)
    std = np.sqrt(np.sum([*deviations], axis=0) / num_steps)
    return {"observation_mean": mean.tolist(), "observation_std": np.where(std < 1e-6, 1.0, std).tolist()}
