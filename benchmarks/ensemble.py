"""An ensemble's matrix products: one member after the other, as `minrnn.ensemble` does, or batched over members.

python benchmarks/ensemble.py                     forward and backward of one linear map, 1,250 steps a member
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import alternate, arguments, milliseconds, ratio, report

from minrnn.linear import Linear


def main() -> None:
    chosen = arguments(__doc__, members=[2, 4, 8], sizes=[64, 256], num_steps=1250, rounds=15)
    rows = []
    for num_members in chosen.members:
        for size_in in chosen.sizes:
            for size_out in chosen.sizes:
                times = alternate(
                    {
                        "one by one": one_by_one(num_members, chosen.num_steps, size_in, size_out),
                        "batched": batched(num_members, chosen.num_steps, size_in, size_out),
                    },
                    chosen.rounds,
                )
                rows.append(
                    {
                        "members": num_members,
                        "inputs": size_in,
                        "outputs": size_out,
                        "one by one, ms": milliseconds(times, "one by one"),
                        "batched, ms": milliseconds(times, "batched"),
                        "batched over one by one": ratio(times, "batched", "one by one"),
                    }
                )
    report("ensemble", rows, chosen, note="Forward and backward, weights and inputs; medians over alternated rounds.")


def one_by_one(num_members: int, num_steps: int, size_in: int, size_out: int) -> Callable[[], object]:
    layers = [Linear(size_in, size_out) for _ in range(num_members)]
    inputs = [torch.randn(num_steps, size_in, requires_grad=True) for _ in layers]
    return lambda: torch.stack([layer(x).sum() for layer, x in zip(layers, inputs, strict=True)]).sum().backward()


def batched(num_members: int, num_steps: int, size_in: int, size_out: int) -> Callable[[], object]:
    weights = torch.randn(num_members, size_in, size_out, requires_grad=True)
    biases = torch.randn(num_members, 1, size_out, requires_grad=True)
    inputs = torch.randn(num_members, num_steps, size_in, requires_grad=True)
    return lambda: torch.baddbmm(biases, inputs, weights).sum().backward()


if __name__ == "__main__":
    main()
