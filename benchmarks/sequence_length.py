"""Time and memory of a training step against the length of its sequences (Feng et al. 2024, figure 1).

python benchmarks/sequence_length.py [--lengths 16 64 256 1024 4096 8192] [--batch-size 8]

Each point is a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from measuring import arguments, axes, report, wait_for_device
from train_step import MIXER_KEYWORDS

BACKBONES = ("min_gru", "min_lstm", "public_min_gru", "gru", "lstm", "attention")


def main() -> None:
    chosen = arguments(
        __doc__, lengths=[16, 64, 256, 1024, 4096], batch_size=8, hidden_size=64, rounds=2, time_limit=20.0, point=""
    )
    if chosen.point:
        print(json.dumps(measure(*json.loads(chosen.point))))
        return
    rows = []
    for name in BACKBONES:
        for length in chosen.lengths:
            row = in_a_process(name, length, chosen)
            if row is None:
                break
            rows.append(row)
    note = (
        f"Three blocks of width {chosen.hidden_size}, batch {chosen.batch_size}, forward + backward. memory: the peak "
        f"above that of the imports. A curve ends where a step took over {chosen.time_limit:.0f} s or did not fit."
    )
    report("sequence_length", rows, chosen, note=note, figure=draw(rows))


def in_a_process(name: str, length: int, chosen: Any) -> dict[str, Any] | None:
    point = json.dumps(
        [name, length, chosen.batch_size, chosen.hidden_size, chosen.rounds, chosen.threads, chosen.device]
    )
    command = [sys.executable, __file__, "--point", point]
    try:
        limit = chosen.time_limit * (chosen.rounds + 1)
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(
    name: str, length: int, batch_size: int, hidden_size: int, rounds: int, threads: int, device: str
) -> dict[str, Any]:
    import peers  # noqa: F401  (puts public_min_gru among the mixers)

    from agents.devices import choose_device
    from minrnn import Backbone

    torch.set_default_device(choose_device(device, threads))
    mixer = MIXER_KEYWORDS[name]
    backbone = Backbone(name, hidden_size=hidden_size, num_layers=3, mlp_ratio=4.0, dropout=0.0, mixer=mixer)
    backbone(torch.zeros(1, 2, hidden_size))[0].sum().backward()
    before = peak_memory_mb(device)
    x = torch.randn(batch_size, length, hidden_size)
    seconds = []
    for _ in range(rounds + 1):
        wait_for_device()
        began = time.perf_counter()
        backbone(x)[0].square().mean().backward()
        wait_for_device()
        seconds.append(time.perf_counter() - began)
    return {
        "backbone": name,
        "length": length,
        "ms a step": 1e3 * sorted(seconds[1:])[rounds // 2],
        "us a token": 1e6 * sorted(seconds[1:])[rounds // 2] / (batch_size * length),
        "memory, MB": peak_memory_mb(device) - before,
    }


def peak_memory_mb(device: str) -> float:
    """The most that this process has held: of the GPU's memory where it uses one, else of the machine's."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(rows: list[dict[str, Any]]) -> Any:
    figure, (time_axis, memory_axis) = axes(2)
    for name in BACKBONES:
        points = [row for row in rows if row["backbone"] == name]
        lengths = [row["length"] for row in points]
        time_axis.plot(lengths, [row["ms a step"] for row in points], marker="o", label=name)
        memory_axis.plot(lengths, [max(1.0, row["memory, MB"]) for row in points], marker="o", label=name)
    time_axis.set(xscale="log", yscale="log", xlabel="sequence length", ylabel="ms a training step")
    memory_axis.set(xscale="log", yscale="log", xlabel="sequence length", ylabel="memory, MB")
    time_axis.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main()
