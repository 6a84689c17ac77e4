"""What D4RL consists of: every file's name, place, size and hash, and the environment it was recorded in."""

from __future__ import annotations

import csv
import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from envs.checks import DataError

HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"  # d4rl/infos.py
Value = TypeVar("Value")
FACTS = Path(__file__).parent / "data" / "d4rl_files.tsv"  # its first lines name its sources


class D4RLFile(NamedTuple):
    """One dataset. path is below the host's folder; what nobody published is None."""

    name: str
    path: str
    num_bytes: int | None
    sha256: str | None
    reference: tuple[float, float] | None  # returns of a random and an expert policy

    @property
    def file_name(self) -> str:
        return self.path.rsplit("/", 1)[1]

    @property
    def suite(self) -> Suite:
        return find_suite(self.name)


class Suite(NamedTuple):
    """Datasets that share their layout and their environments.

    environments: the beginning of a dataset's name -> the id of an environment that gives the observations and takes
    the actions it holds. why_none: what keeps a suite from having one here. max_episode_steps: the beginning of a name
    -> the time limit while recording, for files without timeouts. Actions are in [-1, 1] in every suite of `bounded`.
    """

    name: str
    pattern: str
    environments: dict[str, str]
    max_episode_steps: dict[str, int]
    note: str | None = None
    why_none: str | None = None
    bounded: bool = True


GONE = "its environments need a simulator that the gym of its time carried"
SUITES = (
    # D4RL recorded with gym's -v2 environments (Farama-Foundation/D4RL issue #116). -v4 is the same physics in today's
    # MuJoCo; -v5 is not for Walker2d (friction of the right foot 0.9 -> 1.9), nor for Ant's observations.
    Suite(
        "gym-mujoco",
        r"(halfcheetah|hopper|walker2d|ant)-(?!v\d)",
        {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4"},
        {"": 1000},
    ),
    Suite(
        "adroit",
        r"(pen|hammer|door|relocate)-",
        {
            "pen": "AdroitHandPen-v1",
            "hammer": "AdroitHandHammer-v1",
            "door": "AdroitHandDoor-v1",
            "relocate": "AdroitHandRelocate-v1",
        },
        {"pen": 100, "": 200},
        note="played in gymnasium-robotics' port of the environment: scores there are not those of D4RL's tables",
    ),
    Suite(
        "antmaze",
        r"antmaze-",
        {},
        {"antmaze-umaze": 700, "": 1000},
        why_none="D4RL's mazes hide the goal and count positions from another corner than gymnasium-robotics' AntMaze; "
        "Minari's D4RL/antmaze/... sets were recorded in the latter",
    ),
    Suite(
        "maze2d",
        r"maze2d-",
        {},
        {"maze2d-open": 150, "maze2d-umaze": 300, "maze2d-medium": 600, "": 800},
        why_none="D4RL's mazes hide the goal, which gymnasium-robotics' PointMaze shows; Minari's D4RL/pointmaze/... "
        "sets were recorded in the latter",
    ),
    Suite(
        "kitchen",
        r"kitchen-",
        {},
        {"": 280},
        why_none="FrankaKitchen-v1 of gymnasium-robotics gives 59 columns where D4RL's kitchen gave 60; Minari's "
        "D4RL/kitchen/... sets were recorded in it (it needs mujoco==3.5.0)",
    ),
    Suite("minigrid", r"minigrid-", {}, {}, why_none=GONE, bounded=False),
    Suite("bullet", r"bullet-", {}, {}, why_none=GONE),
    Suite("carla", r"carla-", {}, {}, why_none=GONE),
    Suite("flow", r"flow-", {}, {}, why_none=GONE, bounded=False),
)


def find_suite(name: str) -> Suite:
    """The suite of a D4RL name."""
    return next(suite for suite in SUITES if re.match(suite.pattern, name))


def by_beginning(table: dict[str, Value], name: str) -> Value | None:
    """The value of the first key that name begins with."""
    return next((value for key, value in table.items() if name.startswith(key)), None)


@cache
def d4rl_files() -> dict[str, D4RLFile]:
    """Every dataset by its name."""
    with FACTS.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        return {row["name"]: _describe_file(row) for row in rows}


def _describe_file(row: dict[str, str]) -> D4RLFile:
    low, high = row["random_return"], row["expert_return"]
    return D4RLFile(
        name=row["name"],
        path=row["path"],
        num_bytes=int(row["bytes"]) if row["bytes"] else None,
        sha256=row["sha256"] or None,
        reference=(float(low), float(high)) if low else None,
    )


def find_file(name: str) -> D4RLFile:
    """The dataset of this name. Raises DataError with the nearest ones."""
    files = d4rl_files()
    if name not in files:
        near = difflib.get_close_matches(name, files, n=3)
        raise DataError(
            f"{name!r} is no D4RL name; expected one such as hopper-medium-replay-v2 (dataset.py list d4rl shows all)."
            + (f" Did you mean {' or '.join(near)}?" if near else "")
        )
    return files[name]


def name_of_file(path: Path) -> str | None:
    """D4RL's name for a file that is called like one of its own; None for any other."""
    return next((file.name for file in d4rl_files().values() if file.file_name == path.name), None)


def d4rl_folder() -> Path:
    """Where D4RL keeps its files: $D4RL_DATASET_DIR, else ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()
