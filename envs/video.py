"""One episode as an MP4 file, drawn by MuJoCo without a display."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.environments import make_environment
from envs.evaluate import Policy
from envs.tasks import Task

MOST_FRAMES = 600
FRAMES_A_SECOND = 30
SIZE = 320  # pixels; both sides


class VideoError(ValueError):
    """Why there is no video, and what to do. The message is for the user."""

    for_user = True


def record_video(policy: Policy, task: Task, path: Path, *, seed: int, target_return: float) -> dict[str, Any]:
    """Plays one episode into the file; gives its seed, return and number of steps. Raises VideoError.

    Frames are left out so that a second of film is a second of simulation, as far as 30 frames a second allow.
    """
    try:
        import imageio.v3 as iio
        import imageio_ffmpeg  # noqa: F401  (imageio finds it by itself, and fails late without it)
    except ImportError as error:
        raise VideoError(f'{error}; pip install "minrnn-rl[video]"') from None
    if task.env_id is None:
        raise VideoError("there is no environment to play in")
    _choose_renderer()
    told: dict[str, Any] = {"seed": seed, "return": 0.0, "steps": 0}
    with closing(make_environment(task.env_id, {**task.env_kwargs, "render_mode": "rgb_array"})) as env:
        rate = float(env.metadata.get("render_fps", FRAMES_A_SECOND))
        every = max(1, round(rate / FRAMES_A_SECOND))
        frames = list(_frames(policy, env, seed, target_return, every, told))
        partial = path.with_name(f".partial.{path.name}")
        iio.imwrite(partial, np.stack(frames), fps=rate / every, codec="libx264", macro_block_size=2)
    os.replace(partial, path)
    return told


def _choose_renderer() -> None:
    """EGL draws without a display; it must be chosen before MuJoCo is imported, and only then has an effect."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def _frames(
    policy: Policy, env: Any, seed: int, target_return: float, every: int, told: dict[str, Any]
) -> Iterator[NDArray[np.uint8]]:
    policy.reset(1, target_return)
    observation, _ = env.reset(seed=seed)
    reward, ended, num_frames = 0.0, False, 0
    while not ended:
        if told["steps"] % every == 0 and num_frames < MOST_FRAMES:
            num_frames += 1
            yield _draw(env)
        action = policy.act(np.asarray(observation)[None], np.array([reward]))[0]
        observation, reward, terminated, truncated, _ = env.step(action)
        told["steps"] += 1
        told["return"] += float(reward)
        ended = bool(terminated or truncated)


def _draw(env: Any) -> NDArray[np.uint8]:
    model = getattr(env.unwrapped, "model", None)
    if model is not None:  # without shadows and smoothing drawing in software is much faster
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
    try:
        frame = env.render()
    except Exception as error:  # EGL, GLFW and OSMesa each fail in their own way
        raise VideoError(
            f"{type(error).__name__}: {error}. MuJoCo could not draw with MUJOCO_GL="
            f"{os.environ.get('MUJOCO_GL', '')}: set MUJOCO_GL=egl (libegl1, libgl1-mesa-dri) or osmesa (libosmesa6)"
        ) from error
    if frame is None:
        raise VideoError(f"{env.spec.id} draws nothing")
    step = max(1, frame.shape[0] // SIZE)
    small: NDArray[np.uint8] = np.ascontiguousarray(frame[::step, ::step])
    return small
