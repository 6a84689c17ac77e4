"""Several recordings as one dataset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import WriteD4RL, d4rl_columns
from toys import recorded

from config_overrides import Composer
from config_values import ConfigError
from envs import DataError, load_episodes
from envs.several import join_datasets
from envs.tasks import TaskError, describe_task
from train_offline import main as train


def test_the_episodes_of_all_are_there_in_order(write_d4rl: WriteD4RL) -> None:
    paths = [str(write_d4rl(d4rl_columns(lengths), name)) for lengths, name in (([3, 4], "a.hdf5"), ([5], "b.hdf5"))]
    parts = [load_episodes(path) for path in paths]
    both = load_episodes(paths)
    assert both.lengths.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(both.rewards, np.concatenate([part.rewards for part in parts]))
    np.testing.assert_array_equal(both[2].actions, parts[1][0].actions)
    assert both.source.dataset_id == " + ".join(part.source.dataset_id for part in parts)
    assert all(any(part.source.sha256 in note for note in both.source.notes) for part in parts)
    assert both.source.sha256 not in {part.source.sha256 for part in parts}
    assert load_episodes(paths[:1]).source.dataset_id == parts[0].source.dataset_id


def test_what_cannot_be_learnt_from_together_is_refused(write_d4rl: WriteD4RL) -> None:
    paths = [write_d4rl(d4rl_columns([3, 4], obs_dim), f"{obs_dim}.hdf5") for obs_dim in (3, 4)]
    with pytest.raises(DataError, match=r"the same observations; .* has 3 columns, .* has 4 columns"):
        load_episodes([str(path) for path in paths])
    with pytest.raises(DataError, match=r"the same actions; toy has 2 columns, toy has discrete ones"):
        join_datasets([recorded(), recorded(discrete=True)])


def test_parts_of_different_environments_have_none() -> None:
    parts = [recorded(), recorded(seed=1)]
    sources = [
        dataclasses.replace(part.source, env_id=name) for part, name in zip(parts, ("A-v0", "B-v0"), strict=True)
    ]
    both = join_datasets([dataclasses.replace(part, source=s) for part, s in zip(parts, sources, strict=True)])
    with pytest.raises(TaskError, match="its parts were not recorded in one environment"):
        describe_task(both)


def test_a_run_learns_from_several(write_d4rl: WriteD4RL, tmp_path: Path) -> None:
    paths = [str(write_d4rl(d4rl_columns([30, 40]), name)) for name in ("a.hdf5", "b.hdf5")]
    small = "task=any backbone.hidden_size=16 train.num_steps=2 evaluate.num_episodes=0 num_threads=1"
    train([*small.split(), f"dataset=[{','.join(paths)}]", f"run_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.parametrize("value", ["[]", "[3]", "[[a]]", "{a: b}"])
def test_other_lists_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="dataset must be text"):
        Composer("train_offline").config([f"dataset={value}"])
