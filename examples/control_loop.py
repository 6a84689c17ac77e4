"""A robot's control loop on an exported policy: numpy and onnxruntime, nothing of this repository.

python export.py run_dir=DIR out=policy.onnx
python examples/control_loop.py policy.onnx --hertz 100 --seconds 10

Replace `read_sensors` and `send` by your robot's. Prints how late decisions began and how long they took.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class Policy:
    """The one-step policy: hands the graph its state back, so that it carries return-to-go, step and memory."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a second thread costs more than it saves
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        about = json.loads(self.session.get_modelmeta().custom_metadata_map["policy"])
        self.obs_dim: int = about["inputs"][0]["shape"][1]
        self.first_state = [np.full(part["shape"], part["fill"], part["type"]) for part in about["state"]]
        self.names = [given.name for given in self.session.get_inputs()]
        self.state = self.first_state

    def act(self, observation: NDArray[np.float32], reward: float) -> NDArray[Any]:
        """The action, within its bounds, for what is observed and the reward that the last action earned."""
        given = [observation[None], np.array([reward], np.float32), *self.state]
        (action, *self.state) = self.session.run(None, dict(zip(self.names, given, strict=True)))
        return action[0]


RANDOM = np.random.default_rng(0)


def read_sensors(obs_dim: int) -> tuple[NDArray[np.float32], float]:
    """What the robot observes and the reward it just earned. A stand-in."""
    return RANDOM.standard_normal(obs_dim).astype(np.float32), 0.0


def send(action: NDArray[Any]) -> None:
    """Commands the motors. A stand-in."""


def control(policy: Policy, hertz: float, num_steps: int) -> dict[str, NDArray[np.float64]]:
    """{late, took}: seconds [num_steps] by which a decision began after its time, and from sensing to command.

    The schedule is absolute: a late step does not delay the ones after it.
    """
    late, took = np.zeros(num_steps), np.zeros(num_steps)
    policy.act(*read_sensors(policy.obs_dim))  # what is allocated once is allocated here
    policy.state = policy.first_state
    start = time.perf_counter()
    for step in range(num_steps):
        due = start + step / hertz
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        send(policy.act(*read_sensors(policy.obs_dim)))
        late[step], took[step] = began - due, time.perf_counter() - began
    return {"late": late, "took": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy")
    parser.add_argument("--hertz", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    times = control(Policy(chosen.policy), chosen.hertz, int(chosen.hertz * chosen.seconds))
    for name, seconds in times.items():
        shares = "  ".join(f"{share} %: {1e6 * np.percentile(seconds, share):.0f}" for share in (50, 99, 100))
        print(f"{name:5} us  {shares}")
    print(f"steps that missed their period: {np.sum(times['late'] + times['took'] > 1 / chosen.hertz)}")


if __name__ == "__main__":
    main()
