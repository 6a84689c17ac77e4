"""Critics learn what their targets say, written out slowly; an agent they guide does better than what it was shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_decision_transformer import break_of_padding, whole_episodes
from toys import new_agent, recorded

from agents import WindowSampler, build_agent
from agents.actions import ContinuousActions
from agents.building import AgentError
from agents.critics import Critics
from agents.learner import Learner
from envs import Episode, Episodes, Source

GUIDANCE = {
    "eta": 1.0,
    "advantage_weight": 0.0,
    "critic_size": 16,
    "discount": 0.9,
    "trace": 0.7,
    "expectile": 0.8,
}


def guided(episodes: Episodes, backbone: str = "min_gru", **settings: Any) -> Any:
    spec = new_agent(episodes, backbone).spec
    torch.manual_seed(0)
    return build_agent({**spec, "name": "value_guided", "settings": {**spec["settings"], **GUIDANCE, **settings}})


def critics(**settings: Any) -> Critics:
    usual = {"hidden_size": 8, "discount": 0.9, "trace": 0.7, "expectile": 0.5}
    return Critics(4, 2, **{**usual, **settings})


def slow_target(
    values: list[float], rewards: list[float], terminated: bool, step: int, discount: float, trace: float
) -> float | None:
    """The target of one step of one row of real steps: the mean of all n-step returns, weighted as lambda says."""
    last = len(rewards) - 1
    if step == last:
        return rewards[step] if terminated else None
    returns, weights = [], []
    for n in range(1, last - step + 2):  # the n-step return, as far as the row goes
        end = step + n
        if end > last and not terminated:
            break
        earned = sum(discount**i * rewards[step + i] for i in range(n))
        returns.append(earned + (discount**n * values[end] if end <= last else 0.0))
        weights.append((1 - trace) * trace ** (n - 1))
    weights[-1] += 1 - sum(weights)
    return sum(weight * value for weight, value in zip(weights, returns, strict=True))


@pytest.mark.parametrize("trace", [0.0, 0.6, 1.0])
def test_targets_are_lambda_returns(trace: float) -> None:
    lengths, ends = (6, 4, 1, 6), (True, True, True, False)
    rng = np.random.default_rng(0)
    values, rewards = (torch.from_numpy(rng.standard_normal((4, 6)).astype(np.float32)) for _ in range(2))
    valid_mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    terminated = torch.zeros(4, 6, dtype=torch.bool)
    for row, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        terminated[row, length - 1] = end
    found, known = critics(trace=trace)._targets(values, rewards, terminated, valid_mask)
    for row, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        for step in range(6):
            here = values[row, :length].tolist(), rewards[row, :length].tolist()
            expected = slow_target(*here, end, step, 0.9, trace) if step < length else None
            assert bool(known[row, step]) == (expected is not None)
            if expected is not None:
                assert found[row, step].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("terminated", [True, False])
def test_episodes_that_share_a_row_do_not_earn_for_each_other(terminated: bool) -> None:
    rng = np.random.default_rng(0)
    values, rewards = (torch.from_numpy(rng.standard_normal((1, 7)).astype(np.float32)) for _ in range(2))
    everywhere, ends, starts = (
        torch.ones(1, 7, dtype=torch.bool),
        torch.zeros(1, 7, dtype=torch.bool),
        torch.zeros(1, 7),
    )
    ends[0, [2, 6]], starts[0, [0, 3]] = terminated, 1
    found, known = critics()._targets(values, rewards, ends, everywhere, starts.bool())
    for part in (slice(0, 3), slice(3, 7)):
        alone, known_alone = critics()._targets(values[:, part], rewards[:, part], ends[:, part], everywhere[:, part])
        assert torch.equal(known[:, part], known_alone)
        torch.testing.assert_close(found[:, part][known_alone], alone[known_alone])


def test_values_are_learnt_up_to_an_expectile() -> None:
    """One observation, actions that earn 0 or 1 at once: V is their expectile, Q tells them apart."""
    torch.manual_seed(0)
    model = critics(expectile=0.9, hidden_size=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    actions = torch.rand(64, 1, 2) * 2 - 1
    rewards, ends = (actions[..., 0] > 0).float(), torch.ones(64, 1, dtype=torch.bool)
    for _ in range(400):
        optimizer.zero_grad()
        loss, _ = model.loss(torch.zeros(64, 1, 4), actions, rewards, ends, ends)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.follow(0.05)
    share = rewards.mean().item()
    expectile = 0.9 * share / (0.9 * share + 0.1 * (1 - share))
    assert model.v(torch.zeros(4)).item() == pytest.approx(expectile, abs=0.05)
    values = model.value_of(torch.zeros(2, 4), torch.tensor([[0.7, 0.0], [-0.7, 0.0]]))
    assert values[0] > 0.9
    assert values[1] < 0.1


def test_padding_never_changes_the_loss() -> None:
    episodes = recorded()
    assert break_of_padding(guided(episodes, advantage_weight=1.0), whole_episodes(episodes)) < 1e-5


def test_targets_may_go_on_as_the_policy_would() -> None:
    """The lower slow Q of what the policy does is what lies ahead."""
    torch.manual_seed(0)
    model = critics(trace=0.0)
    for network in model.slow_q:
        torch.nn.init.normal_(network[-1].weight)
    observations, actions, rewards = torch.randn(3, 4, 4), torch.rand(3, 4, 2) * 2 - 1, torch.randn(3, 4)
    valid_mask, terminated = torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)
    policy_actions = torch.full((3, 4, 2), 0.3)
    seen = []
    model._targets = lambda values, *rest: seen.append(values) or Critics._targets(model, values, *rest)  # type: ignore[method-assign, func-returns-value]
    model.loss(observations, actions, rewards, terminated, valid_mask, policy_actions)
    torch.testing.assert_close(seen[0], model.value_of(observations, policy_actions))
    model.loss(observations, actions, rewards, terminated, valid_mask)
    torch.testing.assert_close(seen[1], model.v(observations).squeeze(-1).detach())


@pytest.mark.parametrize("packed", [False, True])
def test_the_policy_learns_from_what_is_imitated_and_the_critics_from_all(packed: bool) -> None:
    """What the other episodes look like is nothing to the policy; without any to imitate its gradients are zero."""
    sampler = WindowSampler(recorded(), context_length=5, top_fraction=0.3, others=1.0, packed=packed)
    agent, batch = guided(recorded(), eta=0.5), sampler.sample(6, seed=0, step=0)
    torch.nn.init.normal_(agent.critics.slow_q[0][-1].weight)
    assert batch.imitated is not None
    strange = batch._replace(
        observations=torch.where(batch.imitated.any(1)[:, None, None], batch.observations, batch.observations + 3)
    )
    none = strange._replace(imitated=torch.zeros_like(batch.imitated))
    found = []
    for shown in (batch, strange, none):
        agent.zero_grad()
        agent.loss(shown)[0].backward()
        policy, critics = ([p.grad.clone() for p in group if p.grad is not None] for group in agent.parameter_groups())
        found.append((policy, critics))
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert found[2][0]
    assert not any(gradient.any() for gradient in found[2][0])


@pytest.mark.parametrize("bound", [1.0, None])
def test_the_policy_is_disturbed_a_little_and_within_its_bounds(bound: float | None) -> None:
    """An action without bounds is not cut at those that others have."""
    agent = guided(recorded())
    low = None if bound is None else -bound
    agent.actions = ContinuousActions([low], [bound])
    policy_actions = torch.full((500, 4, 1), 0.9 if bound else 3.0)
    disturbed = agent._disturbed(policy_actions)
    assert not torch.equal(disturbed, policy_actions)
    assert (disturbed - policy_actions).abs().max() <= 0.5 + 1e-6
    assert (disturbed.max() == 1.0) if bound else (disturbed.max() > 3.0)


def test_what_the_policy_gains_teaches_the_policy_alone() -> None:
    episodes = recorded()
    agent = guided(episodes)
    torch.nn.init.normal_(agent.critics.slow_q[0][-1].weight)
    batch = whole_episodes(episodes)
    agent.loss(batch)[0].backward()
    taught = {name: p.grad.clone() for name, p in agent.named_parameters() if p.grad is not None}
    assert not any(name.startswith("critics.slow_q") for name in taught)
    agent.zero_grad()
    agent._etas.zero_()
    agent.loss(batch)[0].backward()
    for name, parameter in agent.named_parameters():
        if parameter.grad is not None:
            same = torch.allclose(parameter.grad, taught[name], rtol=1e-4, atol=1e-7)
            assert same == name.startswith("critics."), name


def test_of_several_returns_asked_for_the_action_of_the_highest_value_is_taken() -> None:
    episodes = recorded()
    agent = guided(episodes, candidate_returns=[0.5, 1.0, 2.0])
    for network in agent.critics.slow_q:
        torch.nn.init.normal_(network[-1].weight)
    alone = guided(episodes)
    rng = np.random.default_rng(0)
    observations, rewards = rng.standard_normal((4, 4, 4)).astype(np.float32), rng.standard_normal((4, 4))
    rewards[0] = 0.0
    agent.reset(4, 10.0)
    taken = [agent.act(*step) for step in zip(observations, rewards, strict=True)]
    for row in range(4):  # each environment as three, which see what was done
        acts = []
        for share in (0.5, 1.0, 2.0):
            alone.reset(1, 10.0 * share)
            for step in range(4):
                acts.append((step, alone.act(observations[step, row][None], share * rewards[step, row, None])[0]))
                alone._previous_actions = taken[step][row][None]
        for step in range(4):
            offered = np.stack([action for at, action in acts if at == step])
            chosen = agent.choose(torch.from_numpy(observations[step, row][None]), torch.from_numpy(offered))
            np.testing.assert_allclose(taken[step][row], chosen[0], atol=1e-6)
            values = [value_of(agent, observations[step, row], action) for action in offered]
            np.testing.assert_allclose(value_of(agent, observations[step, row], chosen[0].numpy()), max(values))


def value_of(agent: Any, observation: Any, action: Any) -> float:
    at, taken = torch.from_numpy(observation), torch.from_numpy(action)
    normalised = (at - agent.observation_mean) / agent.observation_std
    return float(agent.critics.value_of(normalised[None], agent.actions.encode(taken)[None]))


def bandit(num_episodes: int = 400) -> Episodes:
    """One step each: any action from -2 to 2 was tried, and it earned most at 1."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(num_episodes):
        action = rng.uniform(-2, 2, (1, 2)).astype(np.float32)
        earned = 3 - np.square(action - 1).mean(1)
        observation = rng.standard_normal((1, 4)).astype(np.float32)
        episodes.append(Episode(observation, action, earned.astype(np.float32), terminated=True, truncated=False))
    return Episodes.from_episodes(episodes, Source("bandit", ""))


@pytest.mark.parametrize(
    ("guidance", "better"), [({}, True), ({"eta": 0.0, "advantage_weight": 3.0}, True), ({"eta": 0.0}, False)]
)
def test_guidance_finds_what_nobody_showed(guidance: dict[str, Any], better: bool) -> None:
    episodes = bandit()
    settings = {"condition_on_return": False, "return_scale": 3.0, "context_length": 1, "critic_size": 32}
    agent = guided(episodes, "mlp", **settings, **guidance)
    learner = Learner(
        agent,
        WindowSampler(episodes, context_length=1),
        seed=0,
        batch_size=64,
        num_steps=400,
        learning_rate=0.006,
        warmup_steps=1,
        schedule="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        ema_decay=0.0,
    )
    for step in range(400):
        learner.update(step)
    agent.reset(50, 0.0)
    actions = agent.act(np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32), np.zeros(50))
    assert (abs(actions.mean() - 1) < 0.6) == better, actions.mean()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eta": -1.0}, "eta and advantage_weight must not be negative"),
        ({"discount": 1.5}, "discount must be between 0 and 1; got 1.5"),
        ({"eta": "high"}, "expected eta to be a number"),
        ({"bootstrap": "nobody"}, "bootstrap must be one of recorded, policy; got 'nobody'"),
        ({"candidate_returns": []}, "candidate_returns need an agent that is asked for a return"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentError, match=said):
        guided(recorded(), **settings)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(AgentError, match="actions must be continuous"):
        guided(recorded(discrete=True))
