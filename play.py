"""Play an exported policy in its environment, with onnxruntime and numpy alone: no torch, and no agent of ours.

python play.py policy=DIR/policy.onnx num_episodes=20
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import command_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 1
PART = {"name": str, "shape": [int], "type": str}
ABOUT = {  # what an exported policy says of itself, as envs.patterns writes it
    "format_version": int,
    "inputs": [PART],
    "state": [{**PART, "fill": float}],
    "target_return": float,
    "acting_mode": str,
    "checkpoint": str,
    "task": {},
}


class PolicyError(ValueError):
    """A file that is no exported policy, or cannot be run. The message is for the user."""

    for_user = True


@command_line("play")
def main(config: dict[str, Any]) -> None:
    """Plays the episodes, prints what they earned and what a decision cost, and writes both beside the policy."""
    from envs.tasks import Task
    from evaluate import judge, say_if_not_asked
    from run import write_json
    from summary import print_results

    path = Path(config["policy"])
    if not path.is_file():
        raise PolicyError(f"there is no file at {path}; python export.py run_dir=DIR makes one")
    policy = OnnxPolicy(path.read_bytes())
    say_if_not_asked(policy, config["target_return"])
    task = Task.from_description(policy.about["task"])
    if config["env_id"] is not None:
        task = task.in_environment(config["env_id"])
    asked = policy.about["target_return"] if config["target_return"] is None else config["target_return"]
    results = judge(
        policy,
        task,
        target_return=asked,
        num_episodes=config["num_episodes"],
        num_envs=policy.num_rows,
        seed=config["seed"],
        step_timeout=config["step_timeout"],
    )
    results["protocol"]["checkpoint"] = policy.about["checkpoint"]
    results["seconds"]["decision"] = policy.seconds_of_a_decision()
    out = path.with_suffix(".played.json")
    write_json(out, results)
    print_results(results, out.parent, out.name)
    took = results["seconds"]["decision"]
    print(f"a decision takes {1e6 * took['median']:.0f} us (99 % within {1e6 * took['percentile_99']:.0f} us)")


class OnnxPolicy:
    """An exported policy and its state: reset, then an action a step. Raises PolicyError."""

    def __init__(self, data: bytes) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise PolicyError(f'{error}: pip install "minrnn-rl[play]"') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one row of small matrices
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            self.about: dict[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map["policy"])
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise PolicyError(f"expected a policy that export.py wrote with format=onnx: {error}") from error
        _check(self.about)
        self.acting_mode = self.about["acting_mode"]
        self.condition_on_return: bool = self.about.get("condition_on_return", True)
        self.num_rows: int = self.about["inputs"][0]["shape"][0]
        self._names = [given.name for given in self._session.get_inputs()]
        self._state = first_state(self.about)
        self._seconds: list[float] = []

    def reset(self, num_envs: int, target_return: float) -> None:
        """Begins an episode that is to earn target_return, in no more environments than it was exported for."""
        if num_envs > self.num_rows:
            raise PolicyError(f"the policy was exported for {self.num_rows} environments at once; got {num_envs}")
        self._state = first_state(self.about)
        self._state[0][:] = target_return

    def act(self, observations: NDArray[Any], rewards: NDArray[Any]) -> NDArray[Any]:
        """Actions for observations [N, obs_dim]; rewards [N] are those the last actions earned, zeros after reset."""
        import numpy as np

        began = time.perf_counter()
        rows = len(observations)
        given = [np.zeros(part["shape"], part["type"]) for part in self.about["inputs"]]
        given[0][:rows], given[1][:rows] = observations, rewards
        actions, *self._state = self.run([*given, *self._state])
        self._seconds.append(time.perf_counter() - began)
        return actions[:rows]

    def run(self, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of the graph: actions, then the state for the next step."""
        outputs: list[NDArray[Any]] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs

    def seconds_of_a_decision(self) -> dict[str, float]:
        """{median, percentile_99} over every step acted so far."""
        import numpy as np

        return {
            "median": float(np.median(self._seconds)),
            "percentile_99": float(np.percentile(self._seconds, 99)),
        }


def first_state(about: dict[str, Any]) -> list[NDArray[Any]]:
    """The state before an episode."""
    import numpy as np

    return [np.full(part["shape"], part["fill"], part["type"]) for part in about["state"]]


def _check(about: Any) -> None:
    from envs.patterns import mismatch

    if problem := mismatch(about, ABOUT):
        raise PolicyError(f"expected a policy that export.py wrote; {problem}")
    if about["format_version"] != FORMAT_VERSION:
        raise PolicyError(
            f"the policy has format {about['format_version']}; this version plays format {FORMAT_VERSION}"
        )


if __name__ == "__main__":
    main()
