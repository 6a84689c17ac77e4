"""The agent: laws 5 to 7, both token layouts, continuous and discrete actions."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import BACKBONES, new_agent, recorded

from agents import Batch, DecisionTransformer, WindowSampler
from agents.actions import ContinuousActions, DiscreteActions
from envs import Episode, Episodes

LAYOUTS = ("merged", "interleaved")
each_backbone = pytest.mark.parametrize("backbone", sorted(BACKBONES))
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
either_kind_of_action = pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])


def whole_episodes(episodes: Episodes, context_length: int | None = None) -> Batch:
    return WindowSampler(episodes, context_length=context_length or int(episodes.lengths.max())).windows(
        episodes.offsets[:-1]
    )


def with_garbage_in_padding(batch: Batch) -> Batch:
    """The same real steps, with other values where nothing was recorded."""

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        mask = batch.valid_mask.view(*batch.valid_mask.shape, *[1] * (tensor.ndim - 2))
        return torch.where(mask, tensor, torch.ones_like(tensor) if not tensor.is_floating_point() else 50.0)

    spoilt = [tensor if tensor is None else spoil(tensor) for tensor in batch]
    return Batch(*spoilt)._replace(valid_mask=batch.valid_mask)  # type: ignore[arg-type]


# Law 5: padding never changes a real step.


def break_of_padding(agent: Any, batch: Batch) -> float:
    """How much loss and gradients change with what stands in the padding."""
    found = []
    for one in (batch, with_garbage_in_padding(batch)):
        agent.zero_grad()
        loss, _ = agent.loss(one)
        loss.backward()
        found.append(
            torch.cat([loss.detach()[None], *[p.grad.flatten() for p in agent.parameters() if p.grad is not None]])
        )
    return float((found[0] - found[1]).abs().max())


@either_kind_of_action
@each_layout
@each_backbone
def test_padding_changes_neither_loss_nor_gradient(backbone: str, layout: str, discrete: bool) -> None:
    episodes = recorded(discrete=discrete)
    assert break_of_padding(new_agent(episodes, backbone, token_layout=layout), whole_episodes(episodes)) < 1e-6


def test_an_agent_that_averages_over_padding_is_noticed() -> None:
    class Careless(DecisionTransformer):
        def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return self.actions.error(self.predict(batch), batch.actions).mean(), {}

    episodes = recorded()
    agent = new_agent(episodes)
    agent.__class__ = Careless
    assert break_of_padding(agent, whole_episodes(episodes)) > 1e-3


def test_a_batch_and_its_two_halves_agree_when_weighed_by_their_real_steps() -> None:
    episodes = recorded()
    agent, batch = new_agent(episodes), whole_episodes(episodes)
    halves = [Batch(*(x if x is None else x[rows] for x in batch)) for rows in (slice(0, 2), slice(2, 4))]  # type: ignore[arg-type]
    weights = [int(half.valid_mask.sum()) for half in halves]
    parts = [agent.loss(half)[0].item() * weight for half, weight in zip(halves, weights, strict=True)]
    assert agent.loss(batch)[0].item() == pytest.approx(sum(parts) / sum(weights), rel=1e-5)


# Law 6: acting sees what training saw.


def act_through(agent: DecisionTransformer, episode: Episode) -> np.ndarray:
    """The actions of the agent shown a recorded episode, told of the recorded actions as its own."""
    agent.reset(1, float(episode.rewards.astype(np.float64).sum()))
    actions, reward = [], np.zeros(1)
    for observation, action, next_reward in zip(episode.observations, episode.actions, episode.rewards, strict=True):
        actions.append(agent.act(observation[None], reward)[0])
        agent._previous_actions = action[None]
        reward = next_reward[None]
    return np.stack(actions)


@either_kind_of_action
@each_layout
@each_backbone
def test_carried_acting_gives_what_training_computes_for_the_whole_episode(
    backbone: str, layout: str, discrete: bool
) -> None:
    episodes = recorded(discrete=discrete)
    agent = new_agent(episodes, backbone, token_layout=layout, max_timesteps=20).eval()
    with torch.no_grad():
        predicted = agent.actions.decide(agent.predict(whole_episodes(episodes)).numpy())
    for index in range(len(episodes)):
        expected = predicted[index, : episodes.lengths[index]]
        np.testing.assert_allclose(act_through(agent, episodes[index]), expected, atol=1e-5)


@each_layout
@pytest.mark.parametrize("mode", ["carried", "window"])
@pytest.mark.parametrize("settings", [{"action_loss": "likelihood"}, {"previous_action": False}], ids=str)
def test_acting_gives_what_training_computes_however_actions_are_learnt(
    settings: dict[str, Any], mode: str, layout: str
) -> None:
    episodes = recorded((7, 1, 12))
    agent = new_agent(episodes, token_layout=layout, acting_mode=mode, context_length=12, **settings).eval()
    with torch.no_grad():
        predicted = agent.actions.decide(agent.predict(whole_episodes(episodes)).numpy())
    for index, length in enumerate(episodes.lengths):
        np.testing.assert_allclose(act_through(agent, episodes[index]), predicted[index, :length], atol=1e-5)


@each_layout
@pytest.mark.parametrize("sees", [True, False])
def test_an_agent_sees_what_it_did_last_or_does_not(sees: bool, layout: str) -> None:
    agent = new_agent(recorded(), token_layout=layout, previous_action=sees).eval()
    answers = []
    for action in (0.0, 1.5):
        agent.reset(1, 5.0)
        agent.act(np.ones((1, 4)), np.zeros(1))
        agent._previous_actions = np.full((1, 2), action, np.float32)
        answers.append(agent.act(np.ones((1, 4)), np.zeros(1)))
    assert np.allclose(*answers) is not sees


@each_layout
@each_backbone
def test_window_acting_gives_what_training_computes_for_the_window_that_ends_now(backbone: str, layout: str) -> None:
    episodes = recorded()
    agent = new_agent(episodes, backbone, token_layout=layout, acting_mode="window").eval()
    length = agent.context_length
    sampler = WindowSampler(episodes, context_length=length)
    for index in range(len(episodes)):
        steps = np.arange(episodes.lengths[index])
        begins = np.maximum(steps - length + 1, 0)
        with torch.no_grad():
            predicted = agent.actions.decide(agent.predict(sampler.windows(episodes.offsets[index] + begins)).numpy())
        expected = predicted[np.arange(len(steps)), steps - begins]
        np.testing.assert_allclose(act_through(agent, episodes[index]), expected, atol=1e-5)


def test_an_agent_that_forgets_its_last_action_is_noticed() -> None:
    class Forgetful(DecisionTransformer):
        def act(self, observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
            self._previous_actions = self.actions.none(len(observations))
            return super().act(observations, rewards)

    episodes = recorded()
    agent = new_agent(episodes).eval()
    expected = act_through(agent, episodes[2])
    agent.__class__ = Forgetful
    assert np.abs(act_through(agent, episodes[2]) - expected).max() > 1e-3


def test_the_rewards_earned_are_taken_off_the_return_asked_for() -> None:
    agent = new_agent(recorded())
    agent.reset(2, 100.0)
    agent.act(np.zeros((2, 4)), np.zeros(2))
    agent.act(np.zeros((2, 4)), np.array([30.0, -5.0]))
    assert agent._target.tolist() == [70.0, 105.0]


def test_environments_played_at_once_do_not_touch() -> None:
    episodes = recorded()
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((6, 3, 4)).astype(np.float32)
    agent = new_agent(episodes)

    def play(rows: list[int]) -> np.ndarray:
        agent.reset(len(rows), 10.0)
        return np.stack([agent.act(step[rows], np.ones(len(rows))) for step in observations])

    np.testing.assert_allclose(play([0, 1, 2])[:, 1], play([1])[:, 0], atol=1e-6)


# Law 7: raw units outside the agent.


def in_other_units(episodes: Episodes, scale: float, shift: float) -> Episodes:
    changed = [
        Episode(e.observations * scale + shift, e.actions, e.rewards * scale, terminated=True, truncated=False)
        for e in episodes
    ]
    return Episodes.from_episodes(changed, episodes.source)


def test_units_of_observation_and_reward_make_no_difference() -> None:
    ours = recorded()
    theirs = in_other_units(ours, 8.0, -3.0)
    agent, other = new_agent(ours), new_agent(theirs, return_scale=80.0)
    expected = agent.predict(whole_episodes(ours))
    torch.testing.assert_close(other.predict(whole_episodes(theirs)), expected, rtol=1e-3, atol=1e-4)
    unscaled = new_agent(theirs)  # one that keeps the old scale is noticed
    assert (unscaled.predict(whole_episodes(theirs)) - expected).abs().max() > 1e-2


def test_actions_stay_within_bounds_that_are_neither_symmetric_nor_alike() -> None:
    actions = ContinuousActions([0.0, -3.0, None], [10.0, -1.0, 5.0])
    decided = actions.decide(np.array([[-1e3, 1e3, 1e3], [0.0, 0.0, 0.0]], np.float32))
    assert decided.tolist() == [[0.0, -1.0, 1e3], [5.0, -2.0, 0.0]]
    assert actions.encode(torch.tensor([10.0, -3.0, 7.0])).tolist() == [1.0, -1.0, 7.0]
    assert float(actions.error(torch.tensor([-1e3, 1e3, 7.0]), torch.tensor([0.0, -1.0, 7.0]))) == 0.0


@pytest.mark.parametrize("loss", ["squared", "absolute", "likelihood"])
def test_each_loss_learns_what_it_says_of_noisy_actions(loss: Any) -> None:
    """Of tanh(N(1.2, 0.8)) in bounds of 0 to 10: the mean, the median, which is what was meant, and the spread."""
    torch.manual_seed(0)
    actions = ContinuousActions([0.0], [10.0])
    meant, spread = 1.2, 0.8
    noisy = torch.tanh(meant + spread * torch.randn(20_000, 1))
    prediction = torch.zeros(actions.num_outputs(loss), requires_grad=True)
    optimizer = torch.optim.Adam([prediction], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        actions.loss(prediction.expand(len(noisy), -1), 5 + 5 * noisy, loss).mean().backward()
        optimizer.step()
    decided = actions.decide(prediction.detach().numpy())
    expected = float(noisy.mean()) if loss == "squared" else np.tanh(meant)
    assert decided == pytest.approx(5 + 5 * expected, abs=0.1)
    assert abs(float(noisy.mean()) - np.tanh(meant)) > 0.05  # so that the two are told apart
    if loss == "likelihood":
        assert prediction[1].exp().item() == pytest.approx(spread, rel=0.05)


def test_the_likelihood_of_actions_at_or_beyond_a_bound_or_without_bounds_is_finite() -> None:
    actions = ContinuousActions([-1.0, None], [1.0, None])
    prediction = torch.zeros(3, 4, requires_grad=True)
    loss = actions.loss(prediction, torch.tensor([[1.0, 1e3], [-1.0, -1e3], [5.0, 0.0]]), "likelihood")
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    np.testing.assert_array_equal(actions.decide(np.array([[0.5, 7.0, 9.0, 9.0]]))[0], [np.tanh(0.5), 7.0])


def test_discrete_actions_are_one_hot_and_the_likeliest_is_taken() -> None:
    actions = DiscreteActions(3)
    assert actions.encode(torch.tensor([-1, 2])).tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert actions.decide(np.array([[0.0, 2.0, 1.0]], np.float32)).tolist() == [1]
    assert float(actions.error(torch.zeros(1, 3), torch.tensor([1]))) == pytest.approx(np.log(3))


def test_without_conditioning_the_return_asked_for_makes_no_difference() -> None:
    episodes = recorded()
    for layout in LAYOUTS:
        for conditioned in (True, False):
            agent = new_agent(episodes, token_layout=layout, condition_on_return=conditioned)
            answers = []
            for target in (0.0, 50.0):
                agent.reset(1, target)
                answers.append(agent.act(np.ones((1, 4)), np.zeros(1)))
            assert np.allclose(*answers) is not conditioned


def test_a_constant_observation_column_is_not_divided_by_zero() -> None:
    episodes = recorded()
    constant = [
        Episode(np.full_like(e.observations, 3.0), e.actions, e.rewards, terminated=True, truncated=False)
        for e in episodes
    ]
    agent = new_agent(Episodes.from_episodes(constant, episodes.source))
    assert agent.observation_std.tolist() == [1.0] * 4


def test_noise_on_observations_is_for_learning_only() -> None:
    episodes = recorded()
    agent, batch = new_agent(episodes, observation_noise=0.5), whole_episodes(episodes)

    def loss() -> float:
        return agent.loss(batch)[0].item()

    agent.train()
    assert loss() != loss()
    agent.eval()
    assert loss() == loss() == new_agent(episodes).loss(batch)[0].item()


@pytest.mark.parametrize("layout", ["merged", "interleaved"])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_episodes_that_share_a_row_do_not_see_each_other(backbone: str, layout: str) -> None:
    episodes = recorded((6, 1, 9, 4))
    agent = new_agent(episodes, backbone, token_layout=layout, max_timesteps=9)
    packed = agent.predict(WindowSampler(episodes, context_length=20, packed=True).windows(np.array([0])))[0]
    alone = agent.predict(whole_episodes(episodes))
    expected = torch.cat([alone[i, :length] for i, length in enumerate(episodes.lengths)])
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)
