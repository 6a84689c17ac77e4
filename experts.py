"""Policies worth recording: SAC, kept at intervals while it learns (stable-baselines3, the extra `collect`)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.episodes import Episode, Episodes, Source

if TYPE_CHECKING:
    import gymnasium
    from stable_baselines3 import SAC


class CollectError(ValueError):
    """A policy that cannot be had. The message is for the user."""

    for_user = True


class SACPolicy:
    """A learnt SAC as evaluation and recording see a policy. noise: None to draw actions as while learning; else
    the standard deviation of what is added to the likeliest action."""

    def __init__(self, model: SAC, seed: int, noise: float | None = None) -> None:
        self._model, self._noise, self._rng = model, noise, np.random.default_rng(seed)
        self._space: Any = model.action_space

    def reset(self, num_envs: int, target_return: float) -> None:
        pass

    def act(self, observations: NDArray[Any], rewards: NDArray[Any]) -> NDArray[Any]:
        actions, _ = self._model.predict(observations.astype(np.float32), deterministic=self._noise is not None)
        if self._noise:
            actions = actions + self._noise * self._rng.standard_normal(actions.shape).astype(actions.dtype)
        clipped: NDArray[Any] = np.clip(actions, self._space.low, self._space.high)
        return clipped


class Learning:
    """SAC learning in an environment, its state kept in a folder every few thousand steps: the same call goes on.

    FOLDER/step_N.safetensors holds the policy after N steps; learner.safetensors and replay.npz what learning goes on
    from; curve.json the mean return of each policy kept. Nothing in them can run code.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], folder: Path, seed: int) -> None:
        try:
            from stable_baselines3 import SAC
        except ImportError:
            raise CollectError('policy=sac needs stable-baselines3: pip install "minrnn-rl[collect]"') from None
        from gymnasium.spaces import Box

        if not isinstance(env.action_space, Box):
            raise CollectError(f"policy=sac needs continuous actions; {env.spec} takes {env.action_space}")
        self.env, self.folder, self.seed = env, folder, seed
        self._new = lambda size: SAC("MlpPolicy", env, seed=seed, buffer_size=size, device="cpu")
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def curve(self) -> dict[int, float]:
        """Steps learnt -> mean return of that policy."""
        path = self.folder / "curve.json"
        return {int(step): value for step, value in json.loads(path.read_bytes()).items()} if path.exists() else {}

    def run(self, num_steps: int, every: int, judge: Any, progress: Any) -> None:
        """Learns up to num_steps steps; every so many, judge(policy) gives a mean return and all is kept."""
        curve = self.curve
        done = max(curve, default=0)
        if done >= num_steps:
            return
        model: Any = self._new(num_steps)
        if done:
            self._restore(model, done)
        while done < num_steps:
            chunk = min(every, num_steps - done)
            model.learn(chunk, reset_num_timesteps=False, log_interval=10**9)
            done += chunk
            curve[done] = judge(SACPolicy(model, self.seed, noise=0.0))
            self._keep(model, done, curve)
            progress(done, curve[done])

    def policy(self, step: int, seed: int, noise: float | None = None) -> SACPolicy:
        """The policy kept after this many steps."""
        from safetensors.torch import load_file

        model = self._new(1)
        model.policy.actor.load_state_dict(load_file(self.folder / f"step_{step:08d}.safetensors"))
        model.set_random_seed(seed)
        return SACPolicy(model, seed, noise)

    def replay(self, up_to: int, source: Source) -> Episodes:
        """What was experienced in the first up_to steps, without the episode that was then still going on."""
        with np.load(self.folder / "replay.npz", allow_pickle=False) as stored:
            columns = {name: stored[name][:up_to] for name in stored.files}
        ends = np.flatnonzero(columns["dones"] > 0)
        episodes = []
        for begin, end in zip([0, *(ends[:-1] + 1)], ends, strict=True):
            rows = slice(begin, end + 1)
            timeout = bool(columns["timeouts"][end])
            episodes.append(
                Episode(
                    columns["observations"][rows],
                    self._unscaled(columns["actions"][rows]),
                    columns["rewards"][rows],
                    terminated=not timeout,
                    truncated=timeout,
                    final_observation=columns["next_observations"][end],
                )
            )
        return Episodes.from_episodes(episodes, source)

    def _unscaled(self, actions: NDArray[Any]) -> NDArray[Any]:
        """The buffer holds actions within [-1, 1], whatever the environment's bounds."""
        space: Any = self.env.action_space
        unscaled: NDArray[Any] = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
        return unscaled

    def _keep(self, model: Any, step: int, curve: dict[int, float]) -> None:
        from safetensors.torch import save_file

        buffer, size = model.replay_buffer, model.replay_buffer.size()
        columns = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        arrays = {name: getattr(buffer, name)[:size, 0] for name in columns}
        _renamed(self.folder / "replay.npz", lambda path: np.savez(path, **arrays))
        tensors = _flat(model.get_parameters(), model.log_ent_coef)
        _renamed(self.folder / "learner.safetensors", lambda path: save_file(tensors, path))
        actor = {name: tensor.detach().clone() for name, tensor in model.policy.actor.state_dict().items()}
        _renamed(self.folder / f"step_{step:08d}.safetensors", lambda path: save_file(actor, path))
        _renamed(self.folder / "curve.json", lambda path: Path(path).write_text(json.dumps(curve, indent=1)))

    def _restore(self, model: Any, step: int) -> None:
        """Puts a new model where the kept one was. It begins a new episode, with random numbers of its own."""
        import torch
        from safetensors.torch import load_file

        tensors = load_file(self.folder / "learner.safetensors")
        parameters = model.get_parameters()
        model.set_parameters(_unflat(parameters, tensors), exact_match=True)
        with torch.no_grad():
            model.log_ent_coef.copy_(tensors["log_ent_coef"])
        with np.load(self.folder / "replay.npz", allow_pickle=False) as stored:
            size = min(step, len(stored["rewards"]))
            for name in stored.files:
                getattr(model.replay_buffer, name)[:size, 0] = stored[name][:size]
        model.replay_buffer.pos, model.replay_buffer.full = size % model.replay_buffer.buffer_size, False
        model.num_timesteps = step
        model.set_random_seed(self.seed + step)
        model._last_obs = None


def _flat(parameters: dict[str, Any], log_ent_coef: Any) -> dict[str, Any]:
    """One flat table of tensors: networks by their names, optimizers' state by index and slot."""
    import torch

    flat = {"log_ent_coef": log_ent_coef.detach().clone()}
    for part, state in parameters.items():
        if "state" in state and "param_groups" in state:
            for index, slots in state["state"].items():
                for slot, value in slots.items():
                    flat[f"{part}/{index}/{slot}"] = torch.as_tensor(value).detach().clone()
        elif isinstance(state, dict):
            flat |= {f"{part}/{name}": tensor.detach().clone() for name, tensor in state.items()}
    return flat


def _unflat(parameters: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    restored: dict[str, Any] = {}
    for part, state in parameters.items():
        mine = {key.removeprefix(f"{part}/"): value for key, value in tensors.items() if key.startswith(f"{part}/")}
        if "state" in state and "param_groups" in state:
            slots: dict[int, dict[str, Any]] = {}
            for key, value in mine.items():
                index, slot = key.split("/")
                slots.setdefault(int(index), {})[slot] = value
            restored[part] = {**state, "state": slots}
        else:
            restored[part] = mine
    return restored


def _renamed(path: Path, write: Any) -> None:
    """Writes beside the final name and renames."""
    partial = path.with_name(f".partial.{path.name}")
    write(partial)
    os.replace(partial, path)
