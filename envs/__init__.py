"""What the task is: recorded episodes, the environment they come from, scores. Importing this imports only numpy."""

from collections.abc import Sequence

from envs.episodes import DataError, Episode, Episodes, Source

__all__ = ["DataError", "Episode", "Episodes", "Source", "load_episodes"]


def load_episodes(dataset: str | Sequence[str] | None, *, drop_invalid: bool = False) -> Episodes:
    """The episodes of an embedded set, a file, a D4RL name or a Minari id, or of several: see `envs.datasets`."""
    from envs.datasets import load_episodes as load  # here, so that `import envs` stays cheap

    return load(dataset, drop_invalid=drop_invalid)
