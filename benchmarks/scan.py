"""The gates and the recurrence alone: every path against the public log-space scan and against memory bandwidth.

python benchmarks/scan.py [--lengths 20 60 200 1000 4096] [--threads 1]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measuring import alternate, arguments, axes, milliseconds, ratio, report
from torch import Tensor

from minrnn import scan

SIZE = 192
GATES = {"min_gru": (2, scan.min_gru_gates), "min_lstm": (3, scan.min_lstm_gates)}


def main() -> None:
    chosen = arguments(__doc__, lengths=[20, 60, 200, 1000, 4096], num_steps=8192, rounds=5)
    rows = [row for name in GATES for length in chosen.lengths for row in measure(name, length, chosen)]
    note = (
        f"Forward and backward, {chosen.num_steps} steps of {SIZE} channels in rows of `length`, positive candidates. "
        "log-space: minGRU-pytorch's layer without its matrices. x: times of fused. error: of the states, against the "
        "float64 loop, relative to the largest. copy: reading and writing once what the fused path reads and writes."
    )
    report("scan", rows, chosen, note=note, figure=draw(rows))


def measure(name: str, length: int, chosen: Any) -> list[dict[str, Any]]:
    num_gates, gates = GATES[name]
    torch.manual_seed(0)
    projection = torch.randn(max(1, chosen.num_steps // length), length, num_gates * SIZE)
    weights = torch.randn(*projection.shape[:2], SIZE)
    ours = {"min_gru": scan.min_gru, "min_lstm": scan.min_lstm}[name]
    paths: dict[str, Callable[[Tensor], Tensor]] = {
        "fused": lambda x: ours(x, positive=True, path=x.device.type),
        "plain": lambda x: ours(x, positive=True, path="plain"),
        "log-space": log_space(name),
    }
    share, candidate = gates(projection[:1].double(), True)
    exact = scan.recurrence(1 - share, share * candidate)
    errors = {path: float((run(projection[:1]) - exact).abs().max() / exact.max()) for path, run in paths.items()}
    paths["log-space"] = log_space(name, reordered=False)  # timed without the copy that makes it agree
    candidates: dict[str, Callable[[], object]] = {
        path: forward_and_backward(run, projection, weights) for path, run in paths.items()
    }
    candidates["copy"] = copy_of_the_same_bytes(projection, weights)
    times = alternate(candidates, chosen.rounds)
    return [
        {
            "recurrence": name,
            "length": length,
            "path": path,
            "ms": milliseconds(times, path),
            "x": ratio(times, path, "fused"),
            "error": errors.get(path),
        }
        for path in candidates
    ]


def log_space(name: str, *, reordered: bool = True) -> Callable[[Tensor], Tensor]:
    """The public layer with its linear map taken out; it wants the candidate first: reordered puts it there."""
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM

    layer = {"min_gru": minGRU, "min_lstm": minLSTM}[name](SIZE)
    setattr(layer, "to_hidden_and_gate" if name == "min_gru" else "to_hidden_and_f_i_gate", torch.nn.Identity())
    if not reordered:
        return layer
    return lambda x: layer(torch.cat([x[..., -SIZE:], x[..., :-SIZE]], dim=-1))


def forward_and_backward(run: Callable[[Tensor], Tensor], projection: Tensor, weights: Tensor) -> Callable[[], None]:
    projection = projection.clone().requires_grad_()

    def both() -> None:
        projection.grad = None
        run(projection).backward(weights)

    return both


def copy_of_the_same_bytes(projection: Tensor, states: Tensor) -> Callable[[], None]:
    """Forward reads projections and writes states; backward reads projections, states and a gradient, writes one."""
    pairs = [(projection, torch.empty_like(projection)), (states, torch.empty_like(states))]
    num_reads = 2 * projection.numel() + 2 * states.numel()
    num_writes = projection.numel() + states.numel()
    rest = torch.empty((num_reads - num_writes) // 2)
    pairs.append((torch.ones_like(rest), rest))  # a copy reads and writes: the bytes left over, half and half

    def copy() -> None:
        for source, target in pairs:
            target.copy_(source)

    return copy


def draw(rows: list[dict[str, Any]]) -> Any:
    figure, both = axes(2, sharey=True)
    for axis, name in zip(both, GATES, strict=True):
        for path in ("log-space", "plain", "fused", "copy"):
            points = [(row["length"], row["ms"]) for row in rows if (row["recurrence"], row["path"]) == (name, path)]
            axis.plot(*zip(*points, strict=True), marker="o", label=path)
        axis.set(xscale="log", yscale="log", xlabel="length", title=f"{name}, the same number of steps")
    both[0].set(ylabel="ms, forward and backward")
    both[0].legend()
    return figure


if __name__ == "__main__":
    main()
