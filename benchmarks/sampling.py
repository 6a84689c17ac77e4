"""Drawing batches of windows: a few gathers against a loop over items, as in CORL's loader.

python benchmarks/sampling.py [--batch-sizes 25 64 256]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import alternate, arguments, bars, milliseconds, ratio, report

from agents import WindowSampler
from agents.windows import returns_to_go
from envs import Episodes, load_episodes


def main() -> None:
    chosen = arguments(__doc__, batch_sizes=[25, 64, 256], context_lengths=[20, 50], num_batches=5, rounds=7)
    episodes = load_episodes("hopper_demo")
    rows = [
        row
        for context_length in chosen.context_lengths
        for batch_size in chosen.batch_sizes
        for row in measure(episodes, context_length, batch_size, chosen)
    ]
    note = "x: times of the sampler. item by item: cut, pad and convert each window, then stack them, no workers."
    bar_rows = [{**row, "what": f"{row['way']}, {row['batch']} windows"} for row in rows]
    report("sampling", rows, chosen, note=note, figure=bars(bar_rows, "ms a batch", "what", "context"))


def measure(episodes: Episodes, context_length: int, batch_size: int, chosen: Any) -> list[dict[str, Any]]:
    sampler = WindowSampler(episodes, context_length=context_length)

    def by_gathers() -> None:
        for step in range(chosen.num_batches):
            sampler.sample(batch_size, seed=0, step=step)

    candidates = {"sampler": by_gathers, "item by item": item_by_item(episodes, context_length, batch_size, chosen)}
    times = alternate(candidates, chosen.rounds)
    return [
        {
            "context": context_length,
            "batch": batch_size,
            "way": name,
            "ms a batch": milliseconds(times, name) / chosen.num_batches,
            "x": ratio(times, name, "sampler"),
        }
        for name in candidates
    ]


def item_by_item(episodes: Episodes, context_length: int, batch_size: int, chosen: Any) -> Callable[[], None]:
    """Episodes as dictionaries; each item normalised, padded and made a tensor by itself."""
    to_go = returns_to_go(episodes)
    bounds = list(zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True))
    columns = {"observations": episodes.observations, "actions": episodes.actions, "returns": to_go[:, None]}
    stored = [{key: np.array(column[a:b]) for key, column in columns.items()} for a, b in bounds]
    mean, std = episodes.observations.mean(0), episodes.observations.std(0)
    share = episodes.lengths / episodes.lengths.sum()
    rng = np.random.default_rng(0)

    def item() -> list[torch.Tensor]:
        episode = stored[rng.choice(len(stored), p=share)]
        start = rng.integers(len(episode["actions"]))
        parts = [episode[key][start : start + context_length] for key in columns]
        parts[0] = (parts[0] - mean) / std
        padding = context_length - len(parts[0])
        mask = np.hstack([np.ones(len(parts[0])), np.zeros(padding)])
        padded = [np.pad(part, ((0, padding), (0, 0))).astype(np.float32) for part in parts]
        return [torch.from_numpy(array) for array in (*padded, np.arange(start, start + context_length), mask)]

    def batches() -> None:
        for _ in range(chosen.num_batches):
            items = [item() for _ in range(batch_size)]
            [torch.stack(tensors) for tensors in zip(*items, strict=True)]

    return batches


if __name__ == "__main__":
    main()
