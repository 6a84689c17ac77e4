"""Types follow the defaults, ranges and choices follow the names of the keys."""

from typing import Any

import pytest

from config_values import MISSING, Config, ConfigError, checked_config, checked_value, did_you_mean


@pytest.mark.parametrize(
    ("key", "value", "default", "expected"),
    [
        ("optimizer.learning_rate", 1, 0.001, 1.0),
        ("train.num_steps", 1e5, 4000, 100_000),
        ("train.evaluate_every", 0, 1000, 0),
        ("evaluate.num_episodes", 0, 20, 0),
        ("num_threads", 2, None, 2),
        ("num_threads", None, None, None),
        ("target_return", -200, None, -200.0),
        ("task.target_return", None, 3000.0, None),
        ("run_dir", "here", MISSING, "here"),
        ("device", "cuda:12", "auto", "cuda:12"),
        ("agent.condition_on_return", False, True, False),
        ("of_no_known_type", [1], None, [1]),
    ],
)
def test_a_value_gets_the_type_of_its_default(key: str, value: Any, default: Any, expected: Any) -> None:
    checked = checked_value(key, value, default)
    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "default", "message"),
    [
        ("train.num_steps", 1.5, 4000, "train.num_steps must be a whole number; got 1.5"),
        ("train.num_steps", True, 4000, "train.num_steps must be a whole number; got true"),
        ("train.num_steps", None, 4000, "train.num_steps must be a whole number; got null"),
        ("train.checkpoint_every", 0, 1000, "train.checkpoint_every must be at least 1; got 0"),
        ("agent.top_fraction", 0, 1.0, "agent.top_fraction must be more than 0 and at most 1; got 0.0"),
        ("agent.top_fraction", 1.1, 1.0, "agent.top_fraction must be more than 0 and at most 1; got 1.1"),
        ("optimizer.learning_rate", 0, 0.1, "optimizer.learning_rate must be more than 0; got 0.0"),
        ("optimizer.learning_rate", float("nan"), 0.1, "optimizer.learning_rate must be finite; got nan"),
        ("optimizer.learning_rate", False, 0.1, "optimizer.learning_rate must be a number; got false"),
        ("optimizer.ema_decay", 1, 0.9, "optimizer.ema_decay must be at least 0 and less than 1; got 1.0"),
        ("target_return", "much", None, "target_return must be a number; got 'much'"),
        ("target_return", float("inf"), None, "target_return must be finite; got inf"),
        ("num_threads", 0, None, "num_threads must be at least 1; got 0"),
        ("agent.earliest_of", 0, 3, "agent.earliest_of must be at least 1; got 0"),
        ("num_episodes", 0, 100, "num_episodes must be at least 1; got 0"),
        ("seed", -1, 0, "seed must be at least 0; got -1"),
        ("backbone.num_layers", {"a": 1}, 3, "backbone.num_layers must be a whole number; got {'a': 1}"),
        ("backbone.mixer", 3, {}, "backbone.mixer must be a group of keys; got 3"),
        ("agent.condition_on_return", "yes", True, "agent.condition_on_return must be true or false; got 'yes'"),
        ("agent.acting_mode", None, "auto", "agent.acting_mode must be one of auto, carried, window; got null"),
        ("acting_mode", "auto", None, "acting_mode must be one of carried, window; got 'auto'"),
        ("device", "tpu:0", "auto", "device must be one of auto, cpu, cuda, cuda:N, mps; got 'tpu:0'"),
        ("dataset", "", None, "dataset must not be empty"),
        ("run_dir", MISSING, MISSING, "run_dir must be given: run_dir=..."),
        ("run_dir", None, MISSING, "run_dir must be text; got null"),
    ],
)
def test_a_value_of_a_wrong_type_or_range_is_refused(key: str, value: Any, default: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_value(key, value, default)
    assert str(refused.value) == message


def test_only_keys_added_on_purpose_may_be_new() -> None:
    defaults: Config = {"mixer": {"expansion": 1.0}}
    config: Config = {"mixer": {"expansion": 2, "kernel": 3}}
    assert checked_config(config, defaults, added=["mixer.kernel"]) == {"mixer": {"expansion": 2.0, "kernel": 3}}
    with pytest.raises(ConfigError, match=r"unknown key 'mixer\.kernel'"):
        checked_config(config, defaults, added=["mixer.kern"])


def test_a_whole_group_may_be_added() -> None:
    assert checked_config({"new": {"a": {"b": 1}}}, {}, added=["new"]) == {"new": {"a": {"b": 1}}}
    assert checked_config({"new": {"a": {"b": 1}}}, {}, added=["new.a.b"]) == {"new": {"a": {"b": 1}}}


def test_the_same_name_in_a_section_is_nearer_than_a_similar_word() -> None:
    assert did_you_mean("seeds", ["evaluate.seed", "seed"]) == ". Did you mean 'seed'?"
    assert did_you_mean("num_steps", ["num_stepz", "train.num_steps"]) == ". Did you mean 'train.num_steps'?"
    assert did_you_mean("zzz", ["seed"]) == ""
