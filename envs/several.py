"""Several recordings of one environment as one dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from envs.episodes import DataError, Episodes, Source


def join_datasets(parts: Sequence[Episodes]) -> Episodes:
    """The episodes of all of them, in memory. Raises DataError unless observations, actions and environment agree."""
    first = parts[0]
    for part in parts[1:]:
        for what, ours, theirs in zip(("observations", "actions"), _spaces(first), _spaces(part), strict=True):
            if ours != theirs:
                raise DataError(
                    f"datasets that are learnt from together must have the same {what}; {first.source.dataset_id} has "
                    f"{ours}, {part.source.dataset_id} has {theirs}"
                )
    source = Source(
        dataset_id=" + ".join(part.source.dataset_id for part in parts),
        sha256=hashlib.sha256("".join(part.source.sha256 for part in parts).encode()).hexdigest(),
        env_id=_agreed(parts, "env_id"),
        env_kwargs=_agreed(parts, "env_kwargs") or {},
        reference=_agreed(parts, "reference"),
        reference_source=_agreed(parts, "reference_source"),
        actions=_agreed(parts, "actions"),
        why_no_env="its parts were not recorded in one environment" if _agreed(parts, "env_id") is None else None,
        notes=tuple(
            note
            for part in parts
            for note in (
                f"{part.source.dataset_id}: {len(part)} episodes, sha256 {part.source.sha256}",
                *part.source.notes,
            )
        ),
    )
    num_actions = [part.num_actions for part in parts if part.num_actions is not None]
    return Episodes.from_episodes(
        [episode for part in parts for episode in part], source, max(num_actions) if num_actions else None
    )


def _spaces(episodes: Episodes) -> tuple[str, str]:
    actions = "discrete ones" if episodes.is_discrete else f"{episodes.action_dim} columns"
    return f"{episodes.obs_dim} columns", actions


def _agreed(parts: Sequence[Episodes], name: str) -> Any:
    """What all sources say, None where they differ."""
    said = [getattr(part.source, name) for part in parts]
    return said[0] if all(one == said[0] for one in said) else None
