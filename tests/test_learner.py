"""Learning: it lowers the loss, averages the weights, and goes on from a saved state bit for bit."""

import itertools

import pytest
import torch
from toys import BACKBONES, new_agent, recorded

from agents import WindowSampler
from agents.acting import acting_errors, choose_acting_mode
from agents.learner import Learner, schedule


def new_learner(backbone: str = "min_gru", ema_decay: float = 0.9, layout: str = "merged") -> Learner:
    episodes = recorded((40, 60))
    agent = new_agent(episodes, backbone, token_layout=layout)
    agent.backbone.blocks[0].add.probability = 0.2  # type: ignore[union-attr]
    return Learner(
        agent,
        WindowSampler(episodes, context_length=5),
        seed=3,
        batch_size=8,
        num_steps=20,
        learning_rate=3e-3,
        warmup_steps=2,
        schedule="constant",
        weight_decay=1e-4,
        max_grad_norm=1.0,
        ema_decay=ema_decay,
    )


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    state = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    return state | {f"acting.{name}": tensor.clone() for name, tensor in learner.acting_agent.state_dict().items()}


@pytest.mark.parametrize("layout", ["merged", "interleaved"])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_a_learner_goes_on_from_a_saved_state_bit_for_bit(backbone: str, layout: str) -> None:
    uninterrupted = new_learner(backbone, layout=layout)
    for step in range(6):
        uninterrupted.update(step)
    first = new_learner(backbone, layout=layout)
    for step in range(3):
        first.update(step)
    second = new_learner(backbone, layout=layout)
    second.load_state_dict(first.state_dict(), first.acting_agent.state_dict(), 3)
    for step in range(3, 6):
        second.update(step)
    expected, found = weights(uninterrupted), weights(second)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_learning_lowers_the_loss() -> None:
    learner = new_learner()
    losses = [float(learner.update(step)["loss"]) for step in range(20)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_acting_weights_are_the_running_average() -> None:
    learner = new_learner(ema_decay=0.9)
    average: dict[str, torch.Tensor] = {}
    for step in range(4):
        learner.update(step)
        now = learner.agent.state_dict()
        average = {k: 0.9 * average[k] + 0.1 * now[k] if average else now[k].clone() for k in now}
    for name, tensor in learner.acting_agent.state_dict().items():
        torch.testing.assert_close(tensor, average[name])


def test_without_averaging_the_last_weights_act() -> None:
    learner = new_learner(ema_decay=0.0)
    for step in range(3):
        learner.update(step)
    for name, tensor in learner.acting_agent.state_dict().items():
        torch.testing.assert_close(tensor, learner.agent.state_dict()[name], rtol=0, atol=1e-7)


def test_the_learning_rate_warms_up_and_never_grows_afterwards() -> None:
    rates = [schedule(step, 10, 100, "cosine") for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert schedule(0, 0, 1, "cosine") == 1.0
    assert [schedule(step, 2, 9, "constant") for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_the_acting_mode_with_the_smaller_error_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = recorded((40, 60, 3))
    agent = new_agent(episodes)
    errors = acting_errors(agent, episodes)
    assert set(errors) == {"carried", "window"}
    assert errors["carried"] != errors["window"]
    for carried, expected in ((2.0, "window"), (1.0, "carried")):
        monkeypatch.setattr("agents.acting.acting_errors", lambda *_, c=carried, **__: {"carried": c, "window": 1.0})
        choose_acting_mode(agent, WindowSampler(episodes, context_length=5))
        assert agent.acting_mode == expected


def test_episodes_no_longer_than_the_window_leave_nothing_to_choose() -> None:
    episodes = recorded((5, 3))
    agent = new_agent(episodes, acting_mode="window")
    choose_acting_mode(agent, WindowSampler(episodes, context_length=5))
    assert agent.acting_mode == "carried"


def test_the_acting_mode_is_measured_on_what_is_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = recorded((40, 60, 3))
    sampler = WindowSampler(episodes, context_length=5, top_fraction=0.1)
    agent = new_agent(episodes)
    alone = acting_errors(agent, episodes.select(sampler.kept))
    assert acting_errors(agent, episodes, among=sampler.kept) == pytest.approx(alone)
    assert alone != pytest.approx(acting_errors(agent, episodes))
