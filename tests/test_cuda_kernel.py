"""Law 4 for the Triton kernel: on a GPU where there is one, else in Triton's interpreter on the CPU.

It runs in a process of its own: whether Triton compiles or interprets is decided once, when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ON_GPU = torch.cuda.is_available()
CHECK = """
import sys, torch
sys.path.insert(0, {here!r})
from test_scan import GATES, by_path, inputs, run, by_loop
torch.set_num_threads(1)

def on_device(name, projection, state, starts, positive):
    moved = [None if x is None else x.to({device!r}) for x in (projection, state, starts)]
    return by_path("cuda")(name, *moved, positive).cpu()

def error(name, positive, given, dtype):
    exact = run(by_loop, name, positive, given, torch.float64)
    found = run(on_device, name, positive, given, dtype)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(exact, found, strict=True))

for name in GATES:
    for positive in (False, True):
        for scale, bias in ((1.0, 0.0), (100.0, 0.0), (1.0, -8.0)):
            given = inputs(name, {time}, scale, bias)
            assert error(name, positive, given, torch.float32) < 5e-6, (name, positive, scale, bias)
        assert error(name, positive, inputs(name, {time}, 1.0, 0.0), torch.bfloat16) < 3e-2, (name, positive)
    long = [x[:1, ..., :] if x.ndim == 3 else x[:1] for x in inputs(name, {long_time}, 1.0, -8.0)]
    assert error(name, False, long, torch.float32) < 1e-5, (name, "long")
    assert run(on_device, name, False, (*given[:2], None, given[3]), torch.float32)
print("agrees")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: pip install 'minrnn-rl[cuda]'")
@pytest.mark.parametrize(("time", "long_time"), [(6, 12), (1, 16), pytest.param(300, 4096, marks=pytest.mark.slow)])
def test_the_kernel_agrees_with_the_plain_loop(time: int, long_time: int) -> None:
    device = "cuda" if ON_GPU else "cpu"
    code = CHECK.format(here=str(HERE), device=device, time=time, long_time=long_time)
    environment = {**os.environ} if ON_GPU else {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "agrees\n", done.stderr[-2000:]
