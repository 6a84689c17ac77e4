"""Environments: made by id, with observations as vectors, chosen for recorded data and checked against it."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

from envs.episodes import Episodes

if TYPE_CHECKING:
    import gymnasium

# (columns of an observation, of an action) -> the environments that such data usually comes from
USUAL_ENVIRONMENTS = {
    (11, 3): "Hopper-v5",
    (17, 6): "HalfCheetah-v5, Walker2d-v4 or Walker2d-v5",
    (27, 8): "Ant-v4",
    (105, 8): "Ant-v5",
}


# Beginning of an environment's id -> the package that registers it, and the extra that brings the package
PACKAGES = {
    r"(AntMaze|PointMaze)_|AdroitHand|FrankaKitchen|Fetch|HandReach|HandManipulate": ("gymnasium_robotics", "robotics"),
    r"MiniGrid-|BabyAI-": ("minigrid", "minigrid"),
}


class TaskError(ValueError):
    """A task that cannot be played: no such environment, or one that does not fit the data. Meant for the user."""

    for_user = True


def make_environment(
    env_id: str, env_kwargs: dict[str, Any] | None = None, columns: Sequence[int] | None = None
) -> gymnasium.Env[Any, Any]:
    """The environment, its observations flattened to a vector. Raises TaskError if there is none or it cannot start.

    Parts of an observation that are no numbers (MiniGrid's mission) are left out. columns: those of the vector to show,
    None for all.
    """
    import gymnasium

    _register(env_id)
    _check_env_id(env_id)
    _silence_deprecated_models(env_id)
    try:
        with warnings.catch_warnings():  # -v4 is what D4RL's data needs, out of date or not
            warnings.filterwarnings("ignore", message=".*is out of date.*", category=DeprecationWarning)
            env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **(env_kwargs or {}))
    except Exception as error:  # an environment's constructor may raise anything
        raise TaskError(
            f"{env_id} cannot be made ({type(error).__name__}: {error}); keywords: {env_kwargs or {}}"
            + _known_cure(env_id)
        ) from error
    env = _with_vector_observations(env)
    return env if columns is None else _with_columns(env, list(columns))


def _register(env_id: str) -> None:
    """Imports the package that knows env_id, if it is one of those in PACKAGES. Raises TaskError naming its extra."""
    import gymnasium

    for pattern, (package, extra) in PACKAGES.items():
        if re.match(pattern, env_id) and env_id not in gymnasium.registry:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what other people's packages warn about is not the user's doing
                    gymnasium.register_envs(importlib.import_module(package))
            except ImportError as error:
                raise TaskError(f'{env_id} needs {package} ({error}): pip install "minrnn-rl[{extra}]"') from None


def _silence_deprecated_models(env_id: str) -> None:
    """Keeps MuJoCo from printing, and logging to a file, that gymnasium's own models use a deprecated attribute."""
    import gymnasium

    spec = gymnasium.registry.get(env_id)
    if spec is None or not str(spec.entry_point).startswith(("gymnasium.envs.mujoco", "gymnasium_robotics")):
        return
    try:
        import mujoco
    except ImportError:  # making the environment will say so
        return

    def show(message: str) -> None:
        if not re.match(r"compiler attribute '\w+' is deprecated", message):
            print(f"MuJoCo: {message}", file=sys.stderr)

    if hasattr(mujoco, "set_mju_user_warning"):
        mujoco.set_mju_user_warning(show)


def _known_cure(env_id: str) -> str:
    if env_id.startswith(("FrankaKitchen", "Fetch")) and version("mujoco") > "3.5.0":
        return (
            f". gymnasium-robotics' {env_id} works with mujoco==3.5.0; {version('mujoco')} is installed. "
            "evaluate.num_episodes=0 trains without playing"
        )
    return ""


def _with_columns(env: gymnasium.Env[Any, Any], columns: list[int]) -> gymnasium.Env[Any, Any]:
    from gymnasium.spaces import Box
    from gymnasium.wrappers import TransformObservation

    space: Any = env.observation_space
    if max(columns) >= space.shape[0]:
        raise TaskError(f"observation_columns must be below the {space.shape[0]} that there are; got {columns}")
    shown = Box(space.low[columns], space.high[columns], dtype=space.dtype)
    return TransformObservation(env, lambda observation: observation[columns], shown)


def _with_vector_observations(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    from gymnasium.spaces import Box, Dict
    from gymnasium.wrappers import FilterObservation, FlattenObservation

    space = env.observation_space
    if isinstance(space, Box) and len(space.shape) == 1:
        return env
    if isinstance(space, Dict) and (numeric := [key for key in space.spaces if is_numeric(space[key])]) != [*space]:
        env = FilterObservation(env, numeric)
    return FlattenObservation(env)


def is_numeric(space: Any) -> bool:
    """Whether values of this space are numbers, and so can be part of a vector; text is not."""
    from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

    return isinstance(space, Box | Dict | Discrete | MultiBinary | MultiDiscrete | Tuple)


def _check_env_id(env_id: str) -> None:
    """Raises TaskError for an id that gymnasium does not know, or knows only to refuse."""
    from gymnasium import registry

    if ":" in env_id:  # module:id is registered by importing the module
        return
    name, _, env_version = env_id.rpartition("-v")
    if env_version in ("2", "3") and f"{name}-v4" in registry:
        raise TaskError(
            f"{env_id} needs mujoco-py, which is gone: use env_id={name}-v4, the same physics, or {name}-v5"
        )
    if env_id not in registry:
        known = [one for one in registry if not (one.endswith(("-v2", "-v3")) and f"{one[:-3]}-v4" in registry)]
        near = difflib.get_close_matches(env_id, known, n=3)
        raise TaskError(
            f"env_id must name an environment registered with gymnasium; got {env_id!r}. "
            + (
                f"Did you mean {' or '.join(near)}?"
                if near
                else "Others are named module:id, the module registering it."
            )
        )


def check_environment(env: gymnasium.Env[Any, Any], episodes: Episodes) -> None:
    """Raises TaskError unless a policy learnt from the episodes can play in env."""
    from gymnasium.spaces import Box, Discrete

    name = env.spec.id if env.spec else str(env)
    usual = usual_environments(episodes)
    advice = f" env_id={usual} would do." if usual and usual != name else ""
    columns = env.observation_space.shape
    if columns != (episodes.obs_dim,):
        given = columns[0] if columns and len(columns) == 1 else f"shape {columns}"
        raise TaskError(f"the data has {episodes.obs_dim} observation columns, {name} gives {given}.{advice}")
    space = env.action_space
    if isinstance(space, Discrete) and space.start == 0 and episodes.is_discrete:
        highest = max(int(episodes.actions.max()) + 1, episodes.num_actions or 0)
        if highest > space.n:
            raise TaskError(f"the data has {highest} discrete actions, {name} takes {space.n}.{advice}")
        return
    recorded = "discrete actions" if episodes.is_discrete else f"{episodes.action_dim} action columns"
    if not isinstance(space, Box) or episodes.is_discrete or space.shape != (episodes.action_dim,):
        raise TaskError(f"the data has {recorded}, {name} takes {space}.{advice}")


def usual_environments(episodes: Episodes) -> str | None:
    if episodes.source.env_id is not None:
        return episodes.source.env_id
    return None if episodes.is_discrete else USUAL_ENVIRONMENTS.get((episodes.obs_dim, episodes.action_dim))


def physics_version() -> str:
    """What simulated: 'gymnasium 1.4.0, mujoco 4.0.0'."""
    found = []
    for package in ("gymnasium", "mujoco"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # environments without MuJoCo need none
            continue
    return ", ".join(found)


class EnvironmentChoice(NamedTuple):
    """The environment to score in; declared: the user named it, the data did not. note: what a report must add."""

    env_id: str
    env_kwargs: dict[str, Any]
    declared: bool
    note: str | None


def environment_for(episodes: Episodes, env_id: str | None) -> EnvironmentChoice:
    """The environment to score in: env_id if given, else the one the data was recorded in. Raises TaskError."""
    source = episodes.source
    if env_id is None and source.env_id is None and source.why_no_env:
        raise TaskError(
            f"{source.dataset_id} has no environment here: {source.why_no_env}. Train without playing, with "
            "evaluate.num_episodes=0, or pass env_id=..."
        )
    if env_id is None and source.env_id is None:
        raise TaskError(
            f"{source.dataset_id} does not say which environment it was recorded in. Pass env_id=..., such as "
            f"{usual_environments(episodes) or 'CartPole-v1'}, or train without playing: evaluate.num_episodes=0."
        )
    if env_id is None and ":" in str(source.env_id):  # gymnasium would import the module before the colon
        raise TaskError(
            f"{source.dataset_id} names the environment {source.env_id!r}, which would import a module of its choice. "
            f"If you trust it, pass env_id={source.env_id}."
        )
    if env_id is None or env_id == source.env_id:
        return EnvironmentChoice(str(source.env_id), dict(source.env_kwargs), declared=env_id is not None, note=None)
    recorded = f"was recorded in {source.env_id}" if source.env_id else "does not say where it was recorded"
    return EnvironmentChoice(
        env_id, {}, declared=True, note=f"scored in {env_id} as told; {source.dataset_id} {recorded}"
    )
