"""How an agent should act: from a state carried through the episode, or from its last context_length steps anew.

A carried state costs the same at every step but grows older than any training window; whether that hurts is measured
on recorded episodes, where both ways can be compared on the same steps without an environment.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from agents.decision_transformer import DecisionTransformer
from agents.windows import WindowSampler
from envs.episodes import Episodes

# A carried state that is at most this much worse than the window is worth its constant cost.
TOLERANCE = 1.05


def choose_acting_mode(agent: DecisionTransformer, sampler: WindowSampler) -> None:
    """Sets the agent's acting mode by comparing both on steps it learns from that are older than the training window.

    When no such episode outlives the window the two modes are one, and the carried state is the cheaper.
    """
    errors = acting_errors(agent, sampler.episodes, among=sampler.kept)
    agent.acting_mode = "window" if errors and errors["carried"] > TOLERANCE * errors["window"] else "carried"


@torch.inference_mode()
def acting_errors(
    agent: DecisionTransformer,
    episodes: Episodes,
    *,
    among: NDArray[np.int64] | None = None,
    num_episodes: int = 16,
    num_steps: int = 32,
) -> dict[str, float]:
    """Error of the predicted actions by mode, over num_steps late steps of each of the longest episodes.

    among: the indices of the episodes to take the longest of; None for all.
    """
    agent.eval()
    context_length = agent.context_length
    among = np.arange(len(episodes)) if among is None else among
    longest = among[np.argsort(-episodes.lengths[among], kind="stable")][:num_episodes]
    longest = longest[episodes.lengths[longest] > context_length]
    if len(longest) == 0:
        return {}
    rng = np.random.default_rng(0)
    steps = rng.integers(context_length, episodes.lengths[longest, None], size=(len(longest), num_steps))
    begins = episodes.offsets[longest]
    carried = _errors(agent, episodes, begins, int(steps.max()) + 1)
    window = _errors(agent, episodes, (begins[:, None] + steps - context_length + 1).ravel(), context_length)
    return {"carried": float(np.take_along_axis(carried, steps, 1).mean()), "window": float(window[:, -1].mean())}


def _errors(
    agent: DecisionTransformer, episodes: Episodes, starts: NDArray[np.int64], length: int
) -> NDArray[np.float32]:
    """Error of every step [len(starts), length] of the windows that begin at these rows."""
    batch = WindowSampler(episodes, context_length=length).windows(starts).to(agent.device)
    errors: NDArray[np.float32] = agent.actions.error(agent.predict(batch), batch.actions).cpu().numpy()
    return errors
