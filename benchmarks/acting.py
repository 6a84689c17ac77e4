"""What one decision costs: a carried state in one compiled call, as tensor operations, and a window looked at anew.

python benchmarks/acting.py [--num-envs 1 64] [--hidden-size 128] [--context-lengths 20 50 200 1000]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import alternate, arguments, axes, milliseconds, ratio, report
from train_step import our_agent

from agents import DecisionTransformer, fusing

NUM_DECISIONS = {"carried": 20, "window": 1}  # in one measurement


def main() -> None:
    chosen = arguments(__doc__, num_envs=[1, 64], context_lengths=[20, 50, 200], hidden_size=128, dropout=0.0, rounds=7)
    rows = [row for num_envs in chosen.num_envs for row in measure(num_envs, chosen)]
    note = (
        f"Width {chosen.hidden_size}, 3 blocks, one token a step; microseconds a decision with so many steps past. "
        "x: times of min_gru carried as tensor operations."
    )
    report("acting", rows, chosen, note=note, figure=draw(rows, chosen))


def measure(num_envs: int, chosen: Any) -> list[dict[str, Any]]:
    candidates: dict[str, Callable[[], object]] = {}
    for backbone in ("min_gru", "min_lstm"):
        for fused in (True, False):
            way = "one call" if fused else "tensor operations"
            candidates[f"{backbone}, carried, {way}, any"] = decisions(agent(backbone, chosen), num_envs, 20, fused)
    candidates["gru, carried, tensor operations, any"] = decisions(agent("gru", chosen), num_envs, 20, False)
    for length in chosen.context_lengths:
        candidates[f"attention, carried, keys and values, {length}"] = decisions(
            agent("attention", chosen), num_envs, length, False
        )
        for backbone in ("min_gru", "attention"):
            windowed = agent(backbone, chosen, "window", length)
            candidates[f"{backbone}, window, tensor operations, {length}"] = decisions(
                windowed, num_envs, length, False
            )
    times = alternate(candidates, chosen.rounds)
    rows = []
    for name in candidates:
        backbone, acting, way, context = name.split(", ")
        microseconds = 1e3 * milliseconds(times, name) / NUM_DECISIONS[acting]
        measurements = NUM_DECISIONS["carried"] / NUM_DECISIONS[acting]
        found = measurements * ratio(times, name, "min_gru, carried, tensor operations, any")
        row = {"environments": num_envs, "backbone": backbone, "acting": acting, "by": way, "steps past": context}
        rows.append({**row, "us": microseconds, "x": found})
    return rows


def agent(backbone: str, chosen: Any, acting_mode: str = "carried", context_length: int = 20) -> DecisionTransformer:
    made: Any = our_agent(backbone, "merged", chosen)
    made.acting_mode, made.context_length = acting_mode, context_length
    return made


def decisions(agent: DecisionTransformer, num_envs: int, num_past: int, fused: bool) -> Callable[[], None]:
    """Some decisions after num_past steps; those of a growing state are undone, so that each round sees the same."""
    rng = np.random.default_rng(0)
    observations, rewards = rng.normal(size=(num_envs, 11)), np.zeros(num_envs)
    can_fuse = fusing.can_fuse
    fusing.can_fuse = can_fuse if fused else lambda _: False
    agent.reset(num_envs, 3000.0)
    fusing.can_fuse = can_fuse
    fill(agent, num_envs, num_past)

    def decide() -> None:
        state = agent._state
        for _ in range(NUM_DECISIONS[agent.acting_mode]):
            agent._state = state
            agent.act(observations, rewards)

    return decide


@torch.inference_mode()
def fill(agent: DecisionTransformer, num_envs: int, num_past: int) -> None:
    """What num_past steps leave behind, all at once."""
    tokens = torch.randn(num_envs, num_past, agent.backbone.hidden_size)
    if agent.acting_mode == "window":
        agent._past = list(tokens.unbind(1))
    elif not agent._fused_steps:
        _, agent._state = agent.backbone(tokens)


def draw(rows: list[dict[str, Any]], chosen: Any) -> Any:
    figure, all_axes = axes(len(chosen.num_envs), squeeze=False)
    lengths = chosen.context_lengths
    for axis, num_envs in zip(all_axes[0], chosen.num_envs, strict=True):
        found: dict[str, list[float]] = {}
        for row in rows:
            if row["environments"] == num_envs:
                found.setdefault(f"{row['backbone']}, {row['acting']}, {row['by']}", []).append(row["us"])
        for label, us in found.items():
            axis.plot(lengths, us if len(us) == len(lengths) else us * len(lengths), marker="o", label=label)
        heading = f"{num_envs} environment{'s' * (num_envs > 1)}"
        axis.set(xscale="log", yscale="log", xlabel="steps past", ylabel="microseconds a decision", title=heading)
    figure.set_size_inches(11, 4.6)
    figure.legend(*all_axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


if __name__ == "__main__":
    main()
