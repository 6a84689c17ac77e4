"""A gradient step on a GPU, kernel by kernel and replayed from a recording: its time, and whether both learn alike.

python benchmarks/recording.py --device cuda [--words "agent=ensemble" "backbone=attention"]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from measuring import arguments, report

from agents.devices import choose_device
from agents.learner import Learner
from agents.recording import STEPS_BEFORE
from config_overrides import Composer
from train_offline import build_learner, load_task

WORDS = [
    "agent=filtered_bc",
    "agent=ensemble",
    "agent=value_guided",
    "experiment=td3_bc",
    "agent=filtered_bc train.precision=bf16",
    "agent=filtered_bc backbone=s4d",
    "agent=filtered_bc backbone=mlp",
    "agent=filtered_bc backbone=attention",
    "agent=filtered_bc agent.context_length=1000",
]
UNTIMED = 10  # steps, of which the first are never recorded


def main() -> None:
    chosen = arguments(__doc__, words=WORDS, num_steps=100)
    torch.set_default_device("cpu")  # the agent goes where the config says, its data stays
    if not chosen.device.startswith("cuda"):
        sys.exit("--device must be cuda or cuda:N: steps are recorded on those alone")
    rows = [measure(words, chosen) for words in chosen.words]
    note = (
        f"Milliseconds a step of {chosen.num_steps}, with drawing its batch, on the demo: `train_offline.py "
        "task=hopper_demo` and these words, which leave width 64, 25 windows and, but for the last, 50 steps in each "
        "as they are. x: eager over recorded. same: all weights and all that the optimizer remembers, to the last bit."
    )
    report("recording", rows, chosen, note=note)


def measure(words: str, chosen: Any) -> dict[str, Any]:
    eager, recorded = (learner_of(words, chosen.device, records) for records in (False, True))
    times = {name: milliseconds(one, chosen) for name, one in (("eager", eager), ("recorded", recorded))}
    theirs, ours = weights(eager), weights(recorded)
    same = all(torch.equal(theirs[name], ours[name]) for name in theirs)
    return {"words": words, **times, "x": times["eager"] / times["recorded"], "same": "yes" if same else "no"}


def learner_of(words: str, device: str, records: bool) -> Learner:
    config = Composer("train_offline").config(["task=hopper_demo", *words.split()])
    learner = build_learner(config, *load_task(config), choose_device(device, 1))
    if not records:
        learner._num_updates = STEPS_BEFORE + 1  # past the step at which one is recorded
    return learner


def milliseconds(learner: Learner, chosen: Any) -> float:
    for step in range(UNTIMED):
        learner.update(step)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for step in range(UNTIMED, UNTIMED + chosen.num_steps):
        learner.update(step)
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / chosen.num_steps


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    acting = {f"acting.{name}": tensor for name, tensor in learner.acting_agent.state_dict().items()}
    return learner.state_dict() | acting


if __name__ == "__main__":
    main()
