"""A task is the right environment for the data, and what a score means there."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import Episode, Episodes, Source
from envs.d4rl_catalog import d4rl_files
from envs.environments import TaskError, environment_for, make_environment
from envs.references import REFERENCE_SCORES, normalized_score, reference_scores
from envs.tasks import Task, describe_task


def make_episodes(obs_dim: int = 3, action_dim: int | None = 1, **source: Any) -> Episodes:
    """Two episodes, of returns 5 and 2; action_dim None: discrete actions."""
    made = []
    for length, reward in ((5, 1.0), (1, 2.0)):
        actions: Any = np.zeros(length, int) if action_dim is None else np.zeros((length, action_dim))
        observations: Any = np.zeros((length, obs_dim))
        rewards: Any = np.full(length, reward)
        made.append(Episode(observations, actions, rewards, terminated=True, truncated=False))
    return Episodes.from_episodes(made, Source("mine", "0" * 64, **source))


@pytest.mark.parametrize(
    ("env_id", "family"),
    [
        ("Hopper-v4", "hopper"),
        ("Hopper-v5", "hopper"),
        ("HalfCheetah-v4", "halfcheetah"),
        ("Walker2d-v5", "walker2d"),
        ("Ant-v4", "ant"),
        ("CartPole-v1", None),
        ("mine/Hopper-v5", None),
        ("HopperBig-v5", None),
    ],
)
def test_every_version_of_a_family_has_d4rls_scores(env_id: str, family: str | None) -> None:
    expected = None if family is None else REFERENCE_SCORES[family]
    assert reference_scores(env_id, Source("mine", "")) == expected
    assert expected is None or "D4RL" in expected.source


def test_the_datasets_own_scores_come_first_in_its_own_environment_only() -> None:
    source = Source("toy/hopper-v0", "", "Hopper-v5", reference=(1.0, 2.0), reference_source="its metadata")
    assert reference_scores("Hopper-v5", source) == (1.0, 2.0, "its metadata", "return")
    assert reference_scores("Hopper-v4", source) == REFERENCE_SCORES["hopper"]
    assert reference_scores("CartPole-v1", source) is None


@pytest.mark.parametrize("family", REFERENCE_SCORES)
def test_random_scores_zero_and_expert_one_hundred(family: str) -> None:
    reference = REFERENCE_SCORES[family]
    middle = (reference.min + reference.max) / 2
    np.testing.assert_allclose(
        normalized_score([reference.min, middle, reference.max], reference._asdict()), [0, 50, 100]
    )


def test_the_reference_scores_are_d4rls() -> None:
    in_d4rl = {
        "adroithandpen": "pen-human-v1",
        "adroithandhammer": "hammer-human-v1",
        "adroithanddoor": "door-human-v1",
    }
    in_d4rl |= {"adroithandrelocate": "relocate-human-v1", "frankakitchen": "kitchen-complete-v0"}
    for family, reference in REFERENCE_SCORES.items():
        name = in_d4rl.get(family, f"{family}-medium-v2")
        assert (reference.min, reference.max) == d4rl_files()[name].reference
    assert REFERENCE_SCORES["hopper"][:2] == (-20.272305, 3234.3)


@pytest.mark.parametrize("env_id", ["AntMaze_UMaze-v5", "PointMaze_Medium-v3"])
def test_a_maze_is_scored_by_success_whatever_the_dataset_says(env_id: str) -> None:
    reference = reference_scores(env_id, Source("mine", "", env_id, reference=(3.0, 9.0)))
    assert reference is not None
    assert (reference.min, reference.max, reference.of) == (0.0, 1.0, "success")
    assert reference_scores("PointMaze_UMazeDense-v3", Source("mine", "")) is None


def test_data_without_an_environment_can_be_learnt_from_but_not_played() -> None:
    episodes = make_episodes(3, 1, why_no_env="nobody kept it", actions={"low": [-2.0], "high": [2.0]})
    with pytest.raises(TaskError, match=r"mine has no environment here: nobody kept it\..*evaluate\.num_episodes=0"):
        describe_task(episodes)
    task = describe_task(episodes, play=False)
    assert (task.env_id, task.reference, task.actions) == (None, None, {"low": [-2.0], "high": [2.0]})
    assert task.dataset["notes"][0].startswith("not played: mine has no environment here")
    with pytest.raises(TaskError, match="there is no environment for mine; pass env_id"):
        task.make_environment()
    assert task.in_environment("Pendulum-v1").env_id == "Pendulum-v1"
    with pytest.raises(TaskError, match="choose one that is alike"):
        task.in_environment("CartPole-v1")


def test_actions_beyond_the_bounds_are_counted() -> None:
    episodes = make_episodes(3, 1, env_id="Pendulum-v1")
    actions = episodes.actions.copy()
    actions[1], actions[4] = 2.5, -3.0
    note = describe_task(replace(episodes, actions=actions)).dataset["notes"][0]
    assert note == "2 of 6 actions lie outside the bounds, by up to 1: they are learnt as the bound"


def test_the_datas_own_environment_keeps_its_keywords() -> None:
    episodes = make_episodes(env_id="Pendulum-v1", env_kwargs={"g": 5.0})
    assert environment_for(episodes, None) == ("Pendulum-v1", {"g": 5.0}, False, None)
    assert environment_for(episodes, "Pendulum-v1") == ("Pendulum-v1", {"g": 5.0}, True, None)


@pytest.mark.fault("an environment other than the one recorded in: declared, and noted in the results")
@pytest.mark.parametrize(
    ("recorded_in", "said"), [("Pendulum-v1", "was recorded in Pendulum-v1"), (None, "does not say where")]
)
def test_a_given_environment_wins_and_the_note_says_so(recorded_in: str | None, said: str) -> None:
    choice = environment_for(make_episodes(env_id=recorded_in, env_kwargs={"g": 5.0}), "Hopper-v5")
    assert (choice.env_id, choice.env_kwargs, choice.declared) == ("Hopper-v5", {}, True)
    assert said in str(choice.note)


def test_data_without_an_environment_asks_for_one() -> None:
    with pytest.raises(TaskError, match=r"mine does not say which environment.* Pass env_id=\.\.\., such as Hopper-v5"):
        environment_for(make_episodes(11, 3), None)


@pytest.mark.fault("a dataset that names a module to import as its environment")
def test_data_cannot_name_a_module_to_import() -> None:
    with pytest.raises(TaskError, match=r"a module of its choice\. If you trust it, pass env_id=os:Evil-v0"):
        environment_for(make_episodes(env_id="os:Evil-v0"), None)


def test_a_task_is_plain_json_and_comes_back_from_it() -> None:
    task = describe_task(make_episodes(env_id="Pendulum-v1", env_kwargs={"g": 5.0}, notes=("read so",)))
    assert Task.from_description(json.loads(json.dumps(task.describe()))) == task
    assert (task.env_id, task.env_kwargs, task.env_declared, task.reference) == ("Pendulum-v1", {"g": 5.0}, False, None)
    assert (task.max_episode_steps, task.actions) == (200, {"low": [-2.0], "high": [2.0]})
    histogram = task.dataset["return_histogram"]
    assert (sum(histogram["counts"]), histogram["edges"][0], histogram["edges"][-1]) == (2, 2.0, 5.0)
    assert {key: value for key, value in task.dataset.items() if key != "return_histogram"} == {
        "id": "mine",
        "sha256": "0" * 64,
        "recorded_in": "Pendulum-v1",
        "obs_dim": 3,
        "notes": ["read so"],
        "num_episodes": 2,
        "num_steps": 6,
        "mean_return": 3.5,
        "percentile_90_return": pytest.approx(4.7),
        "best_return": 5.0,
    }


def test_the_target_return_is_the_one_given_else_the_best_of_the_data() -> None:
    episodes = make_episodes(env_id="Pendulum-v1")
    assert describe_task(episodes).target_return == 5.0
    assert describe_task(episodes, target_return=-100.0).target_return == -100.0


def test_discrete_actions_are_described_by_their_count() -> None:
    assert describe_task(make_episodes(4, None, env_id="CartPole-v1")).actions == {"num_actions": 2}


@pytest.mark.fault("an environment other than the one recorded in: declared, and noted in the results")
def test_a_declared_environment_is_noted_and_has_its_own_scores() -> None:
    task = describe_task(make_episodes(11, 3, env_id="Hopper-v4"), env_id="Hopper-v5")
    assert task.env_declared
    assert task.dataset["notes"] == ["scored in Hopper-v5 as told; mine was recorded in Hopper-v4"]
    assert task.reference == REFERENCE_SCORES["hopper"]._asdict()


def test_data_that_does_not_fit_its_environment_poses_no_task() -> None:
    with pytest.raises(TaskError, match="the data has 4 observation columns, Pendulum-v1 gives 3"):
        describe_task(make_episodes(4, 1, env_id="Pendulum-v1"))


def test_a_task_moves_to_an_environment_that_is_alike() -> None:
    task = describe_task(make_episodes(11, 3, env_id="Hopper-v5"))
    moved = task.in_environment("Hopper-v4")
    assert (moved.env_id, moved.env_declared, moved.target_return) == ("Hopper-v4", True, task.target_return)
    assert moved.max_episode_steps == 1000
    assert replace(task, max_episode_steps=7).in_environment("Hopper-v4").max_episode_steps == 1000
    with pytest.raises(TaskError, match="choose one that is alike"):
        task.in_environment("Pendulum-v1")


def test_a_description_of_something_else_is_refused() -> None:
    with pytest.raises(TaskError, match="expected the description of a task"):
        Task.from_description({"env_id": "Hopper-v5"})


@pytest.mark.parametrize("columns", [[], [-1], [0.5], "all"])
def test_columns_that_are_none_are_refused(columns: Any) -> None:
    task = describe_task(make_episodes(11, 3, env_id="Hopper-v5"))
    with pytest.raises(TaskError, match=r"expected observation_columns"):
        Task.from_description({**task.describe(), "observation_columns": columns})


def test_an_agent_is_shown_the_columns_it_learnt_from_in_its_environment_too() -> None:
    episodes = make_episodes(11, 3, env_id="Hopper-v5").select_columns([0, 1, 4])
    task = describe_task(episodes, observation_columns=[0, 1, 4])
    again = Task.from_description(json.loads(json.dumps(task.describe())))
    assert again == task
    with closing(again.make_environment()) as env, closing(gymnasium.make("Hopper-v5")) as whole:
        assert env.observation_space.shape == (3,)
        np.testing.assert_array_equal(env.reset(seed=1)[0], whole.reset(seed=1)[0][[0, 1, 4]])
    with pytest.raises(TaskError, match="observation_columns must be below the 11"):
        make_environment("Hopper-v5", columns=[11])


def test_a_target_far_above_what_was_recorded_is_worth_a_word() -> None:
    task = describe_task(make_episodes(env_id="Pendulum-v1"), target_return=50.0)
    doubt = task.doubt_about_target()
    assert doubt is not None
    assert "50, is 10.0 times the best return recorded" in doubt
    assert "target_return=5 asks for the best" in doubt
    assert replace(task, target_return=6.0).doubt_about_target() is None
    assert replace(task, target_return=-6.0).doubt_about_target() is None
