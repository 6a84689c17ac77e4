"""Which values a config may hold: types follow the yaml defaults, ranges and choices follow the names of the keys."""

import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

Config = dict[str, Any]

MISSING = "???"  # how Hydra writes a value that must be given

# Keys that may be null, and the type they have otherwise.
NULLABLE: dict[str, type] = {
    "acting_mode": str,
    "agent.top_return": float,
    "backbone.conv_width": int,
    "backbone.mixer.memory_length": int,
    "backbone.mixer.window": int,
    "dataset": str,
    "env_id": str,
    "out": str,
    "num_threads": int,
    "observation_columns": list,
    "run_dir": str,
    "target_return": float,
    "task.dataset": str,
    "task.env_id": str,
    "task.target_return": float,
}

CHOICES: dict[str, tuple[str, ...]] = {
    "acting_mode": ("carried", "window"),
    "agent.acting_mode": ("auto", "carried", "window"),
    "agent.bootstrap": ("policy", "recorded"),
    "agent.action_loss": ("absolute", "likelihood", "squared"),
    "checkpoint": ("best", "last"),
    "format": ("onnx", "torch"),
    "agent.token_layout": ("interleaved", "merged"),
    "optimizer.schedule": ("constant", "cosine"),
    "train.precision": ("bf16", "float32"),
    "device": ("auto", "cpu", "cuda", "cuda:N", "mps"),
}

FOR_EACH_MEMBER = ("agent.action_loss", "agent.eta")  # may be a list, of one for each member of an ensemble

# The first pattern that matches the end of a dotted key holds.
RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    (
        r"evaluate\.num_episodes|evaluate_every|warmup_steps|profile_steps|seed|weight_decay|observation_noise|eta|others|advantage_weight",
        "at least 0",
        lambda value: value >= 0,
    ),
    (r"conv_width|memory_length", "at least 2", lambda value: value >= 2),
    (r"discount|trace|expectile", "at least 0 and at most 1", lambda value: 0 <= value <= 1),
    (r"num_\w+|\w+_size|\w+_length|\w+_every|window|accumulate|earliest_of", "at least 1", lambda value: value >= 1),
    (r"dropout|ema_decay", "at least 0 and less than 1", lambda value: 0 <= value < 1),
    (r"top_return", "at most 1", lambda value: value <= 1),
    (r"top_fraction", "more than 0 and at most 1", lambda value: 0 < value <= 1),
    (r"learning_rate|max_grad_norm|return_scale|mlp_ratio|expansion", "more than 0", lambda value: value > 0),
)

TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    dict: "a group of keys",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "text",
}


class ConfigError(ValueError):
    """A mistake in what was asked for. The message is for the user."""

    for_user = True


def checked_config(config: Config, defaults: Config, added: Collection[str] = (), prefix: str = "") -> Config:
    """The config with whole numbers turned to floats where the defaults hold floats.

    added: dotted keys put there on purpose (`+key=value`); every other key must be one of the defaults'.
    Raises ConfigError at the first unknown key, missing value, or value of a wrong type or range.
    """
    checked: Config = {}
    for name, value in config.items():
        key = prefix + name
        if name not in defaults:
            if not any(_overlap(key, other) for other in added):
                raise ConfigError(f"unknown key {key!r} in a config file{did_you_mean(name, defaults)}")
            checked[name] = value
        elif isinstance(value, dict) and isinstance(defaults[name], dict):
            checked[name] = checked_config(value, defaults[name], added, key + ".")
        else:
            checked[name] = checked_value(key, value, defaults[name])
    return checked


def checked_value(key: str, value: Any, default: Any) -> Any:
    """The value, as a float where a float is meant; ConfigError unless type, choice and range are right."""
    if value == MISSING:
        raise ConfigError(f"{key} must be given: {key}=...")
    if value == "":
        raise ConfigError(f"{key} must not be empty")
    if value is None and default != MISSING and (default is None or key in NULLABLE):
        return None
    kind = NULLABLE.get(key) or (None if default is None else type(default))
    if key == "dataset" and isinstance(value, list) and value:  # several, learnt from together
        return [_as_type(key, one, str) for one in value]
    if key in FOR_EACH_MEMBER:
        default = default[0] if isinstance(default, list) else default
        if isinstance(value, list) and value:
            return [checked_value(key, one, default) for one in value]
        kind = type(default)
    if key in CHOICES:
        check_choice(key, value, CHOICES[key])
    elif kind is not None:
        value = _as_type(key, value, kind)
    if key == "agent.candidate_returns":
        if not value:
            raise ConfigError(f"{key} must name at least one number of times the return asked for; got []")
        return [_as_type(key, one, float) for one in value]
    if key == "observation_columns" and not all(type(column) is int and column >= 0 for column in value):
        raise ConfigError(f"{key} must be a list of column numbers, from 0; got {_written(value)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(key, value)
    return value


def check_members(config: Config) -> None:
    """Raises ConfigError unless what is listed for each member of an agent is listed for as many as it has."""
    for key in FOR_EACH_MEMBER:
        group, name = key.split(".")
        agent = config.get(group, {})
        value, num_members = agent.get(name), agent.get("num_members")
        if isinstance(value, list) and len(value) != num_members:
            raise ConfigError(
                f"{key} must be one for all members or a list of {num_members}, one for each of {group}.num_members; "
                f"got {_written(value)}"
            )


def check_choice(key: str, value: Any, choices: Collection[str]) -> None:
    """Raises ConfigError with the nearest choice unless value is one of them; `cuda:N` stands for any cuda:0, ..."""
    if re.sub(r"^cuda:\d+$", "cuda:N", str(value)) not in choices:
        near = did_you_mean(str(value), choices)
        raise ConfigError(f"{key} must be one of {', '.join(sorted(choices))}; got {_written(value)}{near}")


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`. Did you mean 'x'?` with the nearest of the known words; empty where none is near."""
    same_name = [key for key in known if key.endswith("." + word)]  # num_steps for train.num_steps
    nearest = same_name or difflib.get_close_matches(word, known, n=1)
    return f". Did you mean {nearest[0]!r}?" if nearest else ""


def _as_type(key: str, value: Any, kind: type) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():  # train.num_steps=1e5
        return int(value)
    quote = f""". To give it as text: "{key}='{value}'\"""" if kind is str and type(value) in (int, float) else ""
    raise ConfigError(f"{key} must be {TYPE_NAMES.get(kind, kind.__name__)}; got {_written(value)}{quote}")


def _check_range(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"{key} must be finite; got {value}")
    for pattern, expected, holds in RANGES:
        if re.search(rf"(^|\.)({pattern})$", key):
            if not holds(value):
                raise ConfigError(f"{key} must be {expected}; got {value}")
            return


def _written(value: Any) -> str:
    """The value as the command line spells it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _overlap(key: str, other: str) -> bool:
    """Whether two dotted keys are the same or one lies inside the other."""
    return (key + ".").startswith(other + ".") or (other + ".").startswith(key + ".")


def dotted_keys(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested config as (dotted key, value)."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from dotted_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
