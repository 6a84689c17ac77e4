"""The sampler: what a batch holds, that every step is learnt from, and that (seed, step) alone decides."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import new_agent, recorded

from agents.windows import Batch, WindowSampler, best_episodes, returns_to_go


def slow_window(episodes, start: int, context_length: int) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    """One window, step by step, as the words say it: the oracle."""
    index = max(i for i in range(len(episodes)) if episodes.offsets[i] <= start)
    episode, first = episodes[index], start - int(episodes.offsets[index])
    steps = []
    for t in range(first, min(first + context_length, len(episode))):
        none = -1 if episodes.is_discrete else np.zeros(episodes.action_dim, np.float32)
        steps.append(
            {
                "observations": episode.observations[t],
                "actions": episode.actions[t],
                "previous_actions": episode.actions[t - 1] if t > 0 else none,
                "returns_to_go": episode.rewards[t:].astype(np.float64).sum(),
                "timesteps": t,
            }
        )
    return steps


@pytest.mark.parametrize("discrete", [False, True])
def test_a_window_holds_the_steps_of_one_episode_and_is_padded_on_the_right(discrete: bool) -> None:
    episodes = recorded(discrete=discrete)
    batch = WindowSampler(episodes, context_length=5).windows(np.arange(episodes.num_steps))
    for start in range(episodes.num_steps):
        expected = slow_window(episodes, start, 5)
        assert batch.valid_mask[start].tolist() == [True] * len(expected) + [False] * (5 - len(expected))
        for t, step in enumerate(expected):
            for name, value in step.items():
                np.testing.assert_allclose(getattr(batch, name)[start, t], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_every_step_is_seen_about_equally_often_and_an_episode_begins_many_windows() -> None:
    episodes = recorded((3, 40, 200))
    sampler = WindowSampler(episodes, context_length=10)
    whose = {row.tobytes(): index for index in range(3) for row in episodes[index].observations}
    seen, fresh = np.zeros((3, 200)), 0
    for step in range(300):
        batch = sampler.sample(64, seed=0, step=step)
        for observations, timesteps, valid in zip(batch.observations, batch.timesteps, batch.valid_mask, strict=True):
            index = whose[observations[0].numpy().tobytes()]
            seen[index, timesteps[valid]] += 1
            fresh += int(timesteps[0] == 0 and index == 2)
    counts = [seen[0, :3], seen[1, :40], seen[2, :200]]
    middle = np.mean(counts[2][20:180])
    for count in counts:
        assert count.min() > 0.7 * middle
        assert count.max() < 2.2 * middle
    assert fresh / (300 * 64) == pytest.approx(10 / (12 + 49 + 209), rel=0.15)


@pytest.mark.parametrize("earliest_of", [1, 2, 3])
def test_of_several_windows_drawn_from_an_episode_the_earliest_is_taken(earliest_of: int) -> None:
    """Episodes keep their shares; within one, a place is begun at as often as the least of so many draws is there."""
    episodes = recorded((30, 90, 60))
    sampler = WindowSampler(episodes, context_length=1, top_fraction=0.67, earliest_of=earliest_of)
    starts = sampler.starts(40_000, seed=0, step=0)
    lengths = episodes.lengths[sampler.kept]
    for index, length in zip(sampler.kept, lengths, strict=True):
        within = starts[(starts >= episodes.offsets[index]) & (starts < episodes.offsets[index + 1])]
        within = within - episodes.offsets[index]
        assert len(within) / len(starts) == pytest.approx(length / lengths.sum(), rel=0.05)
        expected = sum((1 - place / length) ** earliest_of for place in range(1, length))
        assert within.mean() == pytest.approx(expected, rel=0.05)


def test_what_critics_learn_from_is_drawn_from_all_steps_alike() -> None:
    settings: dict[str, Any] = {"context_length": 1, "top_fraction": 0.5, "others": 1.0}
    episodes = recorded((30, 90, 60))
    early = WindowSampler(episodes, earliest_of=3, **settings).starts(20_000, seed=0, step=0)[20_000:]
    counts = np.bincount(early, minlength=episodes.num_steps)
    assert counts.min() > 0.5 * counts.mean()
    assert counts.max() < 1.6 * counts.mean()


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    sampler = WindowSampler(recorded(), context_length=5, packed=True)
    first = sampler.sample(8, seed=3, step=7)
    sampler.sample(8, seed=3, step=8)
    again = WindowSampler(recorded(), context_length=5, packed=True).sample(8, seed=3, step=7)
    assert all(a is b or torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (sampler.sample(8, seed=4, step=7), sampler.sample(8, seed=3, step=8)):
        assert not torch.equal(first.observations, other.observations)


def test_top_fraction_keeps_the_best_episodes_and_at_least_one() -> None:
    episodes = recorded((5,) * 10)
    kept = WindowSampler(episodes, context_length=5, top_fraction=0.3).kept
    assert sorted(episodes.returns[kept]) == pytest.approx(sorted(episodes.returns)[-3:])
    assert len(WindowSampler(episodes, context_length=5, top_fraction=0.01).kept) == 1


@pytest.mark.parametrize(
    ("returns", "top_return", "kept"),
    [
        ([1.0, 9.0, 2.0, 10.0], 0.5, [1, 3]),  # a good policy and a bad one: the mean is 5.5
        ([5.0, 5.0, 5.0, 9.0], 0.5, [3]),  # one policy: what is far above the mean
        ([-200.0, -100.0, -110.0, -105.0], 0.5, [1, 2, 3]),
        ([0.0, 1.0, 0.0, 1.0], 0.5, [1, 3]),  # success or not
        ([0.1, 0.1, 0.1], 0.5, [0, 1, 2]),  # nothing to tell them apart by
        ([1.0, 2.0, 3.0, 6.0], 0.0, [2, 3]),
        ([1.0, 9.0, 2.0, 10.0], None, [3]),
    ],
)
def test_episodes_that_come_near_the_best_are_kept(returns: list[float], top_return: float, kept: list[int]) -> None:
    assert best_episodes(np.array(returns), 0.01, top_return).tolist() == kept


@pytest.mark.parametrize("packed", [False, True])
def test_windows_are_those_of_the_kept_episodes_alone(packed: bool) -> None:
    episodes = recorded((7, 1, 30, 12, 9))
    sampler = WindowSampler(episodes, context_length=5, top_fraction=0.6, packed=packed)
    alone = WindowSampler(episodes.select(sampler.kept), context_length=5, packed=packed)
    ours, theirs = (one.sample(64, seed=0, step=0) for one in (sampler, alone))
    assert all(a is b or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    starts = [one.starts(64, seed=0, step=0) for one in (sampler, alone)]
    assert sampler.num_real_steps(starts[0]) == alone.num_real_steps(starts[1])


def test_returns_to_go_are_summed_in_double_precision() -> None:
    episodes = recorded((100_000,))
    expected = np.cumsum(episodes.rewards[::-1].astype(np.float64))[::-1]
    np.testing.assert_allclose(returns_to_go(episodes), expected, rtol=1e-5, atol=1e-3)


def test_nothing_is_written_into_the_recorded_arrays() -> None:
    episodes = recorded()
    for array in (episodes.observations, episodes.actions, episodes.rewards):
        array.flags.writeable = False
    WindowSampler(episodes, context_length=5).sample(8, seed=0, step=0)


def test_a_batch_goes_to_a_device_whole() -> None:
    sampler = WindowSampler(recorded(), context_length=5, packed=True, top_fraction=0.5, others=0.5)
    batch = sampler.sample(2, seed=0, step=0)
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Batch)
    assert {tensor.device.type for tensor in moved if tensor is not None} == {"meta"}
    assert None not in batch


@pytest.mark.parametrize("discrete", [False, True])
def test_a_packed_window_goes_on_with_the_next_episode_and_after_the_last_with_the_first(discrete: bool) -> None:
    episodes = recorded(discrete=discrete)
    batch = WindowSampler(episodes, context_length=20, packed=True).windows(np.arange(episodes.num_steps))
    assert batch.valid_mask.all()
    assert batch.starts is not None
    for start in range(episodes.num_steps):
        at = 0
        while at < 20:
            expected = slow_window(episodes, (start + at) % episodes.num_steps, 20 - at)
            for t, step in enumerate(expected, start=at):
                assert bool(batch.starts[start, t]) == (step["timesteps"] == 0)
                for name, value in step.items():
                    np.testing.assert_allclose(getattr(batch, name)[start, t], value, rtol=1e-5, atol=1e-5)
            at += len(expected)


@pytest.mark.parametrize("packed", [False, True])
def test_others_are_drawn_from_all_episodes_and_are_not_to_be_imitated(packed: bool) -> None:
    episodes = recorded((7, 1, 30, 12, 9))
    settings: dict[str, Any] = {"context_length": 5, "top_fraction": 0.4, "packed": packed}
    alone = WindowSampler(episodes, **settings)
    sampler = WindowSampler(episodes, **settings, others=1.0)
    starts = sampler.starts(200, seed=0, step=0)
    assert np.array_equal(starts[:200], alone.starts(200, seed=0, step=0))
    batch = sampler.windows(starts)
    episode = np.searchsorted(episodes.offsets, starts, side="right") - 1
    assert set(episode[200:]) == {0, 1, 2, 3, 4}
    assert batch.imitated is not None
    assert np.array_equal(batch.imitated[:, 0].numpy(), np.isin(episode, sampler.kept))
    assert packed is not bool((batch.imitated == batch.imitated[:, :1])[batch.valid_mask].all())
    assert int(batch.valid_mask.sum()) == sampler.num_real_steps(starts)


def test_nothing_is_learnt_from_actions_that_are_not_to_be_imitated() -> None:
    episodes = recorded()
    agent = new_agent(episodes)
    batch = WindowSampler(episodes, context_length=5).sample(8, seed=0, step=0)
    masked = batch._replace(imitated=torch.zeros_like(batch.valid_mask))
    loss, _ = agent.loss(masked)
    assert loss.item() == 0.0
    half = batch._replace(imitated=torch.arange(8)[:, None].expand(8, 5) < 4)
    other_actions = batch.actions.clone()
    other_actions[4:] += 1
    assert torch.equal(agent.loss(half)[0], agent.loss(half._replace(actions=other_actions))[0])
