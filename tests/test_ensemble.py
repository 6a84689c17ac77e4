"""Ensembles: members that share nothing, learn each on its own, and act by their mean."""

import numpy as np
import pytest
import torch
from test_export import exported, largest_difference
from test_value_guided import guided
from toys import BACKBONES, new_agent, recorded

from agents import WindowSampler, build_agent
from agents.building import AgentError
from agents.decision_transformer import DecisionTransformer
from minrnn import Backbone
from minrnn.ensemble import Ensemble


def member_of(agent: DecisionTransformer, index: int) -> DecisionTransformer:
    """One member of an ensemble as an agent of its own."""
    alone = build_agent({key: value for key, value in agent.spec.items() if key != "num_members"})
    width = agent.backbone.hidden_size // agent.backbone.num_members
    weights = {}
    for name, tensor in agent.state_dict().items():
        part, _, rest = name.partition(".members.")
        if rest:
            number, _, rest = rest.partition(".")
            weights |= {f"{part}.{rest}": tensor} if int(number) == index else {}
        else:
            weights[name] = tensor[index * width : (index + 1) * width]
    alone.load_state_dict(weights)
    return alone


def ensemble(num_members: int = 3, backbone: str = "min_gru", **settings: object) -> DecisionTransformer:
    spec = new_agent(recorded(), backbone).spec
    torch.manual_seed(1)
    return build_agent({**spec, "num_members": num_members, "settings": {**spec["settings"], **settings}})


def batch() -> object:
    return WindowSampler(recorded(), context_length=5).sample(6, seed=0, step=0)


@pytest.mark.parametrize("layout", ["merged", "interleaved"])
def test_predicts_the_mean_of_what_its_members_predict_alone(layout: str) -> None:
    agent = ensemble(token_layout=layout)
    each = agent.predict_each(batch())
    assert (each[..., 0, :] - each[..., 1, :]).abs().max() > 0.01  # they are not all the same
    if layout == "merged":
        for index in range(3):
            torch.testing.assert_close(each[..., index, :], member_of(agent, index).predict(batch()))
    torch.testing.assert_close(agent.predict(batch()), each.mean(-2))


def test_members_learn_as_if_alone() -> None:
    agent = ensemble()
    loss, _ = agent.loss(batch())
    loss.backward()
    for index in range(3):
        alone = member_of(agent, index)
        (alone.loss(batch())[0] / 3).backward()
        width = alone.backbone.hidden_size
        rows = slice(index * width, (index + 1) * width)
        torch.testing.assert_close(agent.embed["step"].weight.grad[rows], alone.embed["step"].weight.grad)
        torch.testing.assert_close(agent.head.members[index].weight.grad, alone.head.weight.grad)
        theirs, own = agent.backbone.members[index].parameters(), alone.backbone.parameters()
        for ours, lone in zip(theirs, own, strict=True):
            torch.testing.assert_close(ours.grad, lone.grad)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("mode", ["carried", "window"])
def test_acts_by_the_mean_prediction_and_sees_what_it_did(backbone: str, mode: str) -> None:
    """Members alone, each told what the ensemble did, predict at every step what the ensemble averages."""
    agent = ensemble(2, backbone, acting_mode=mode)
    members = [member_of(agent, index) for index in range(2)]
    rng = np.random.default_rng(0)
    for policy in (agent, *members):
        policy.reset(3, 7.0)
    for step in range(8):
        observations, rewards = rng.standard_normal((3, 4)), rng.standard_normal(3) * (step > 0)
        together = agent.act(observations, rewards)
        before_tanh = []
        for member in members:
            alone = member.act(observations, rewards)
            before_tanh.append(np.arctanh(alone / 2))
            member._previous_actions = together
        np.testing.assert_allclose(together, 2 * np.tanh(np.mean(before_tanh, 0)), atol=1e-4)


def test_one_member_is_no_ensemble() -> None:
    one, plain = ensemble(1), new_agent(recorded())
    assert isinstance(one.backbone, Backbone)
    assert one.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(ensemble(2).backbone, Ensemble)


def test_discrete_actions_have_ensembles_too() -> None:
    episodes = recorded(discrete=True)
    agent = build_agent({**new_agent(episodes).spec, "num_members": 3})
    windows = WindowSampler(episodes, context_length=5).sample(6, seed=0, step=0)
    loss, _ = agent.loss(windows)
    each = agent.predict_each(windows)
    alone = [
        torch.nn.functional.cross_entropy(each[:, :, m][windows.valid_mask], windows.actions[windows.valid_mask])
        for m in range(3)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    agent.reset(2, 1.0)
    assert agent.act(np.zeros((2, 4)), np.zeros(2)).shape == (2,)


@pytest.mark.parametrize("asked", [0, -1, 65, 2.0, True, "2"])
def test_a_wrong_number_of_members_is_refused(asked: object) -> None:
    with pytest.raises(AgentError, match="1 to 64 members"):
        build_agent({**new_agent(recorded()).spec, "num_members": asked})


def test_an_ensemble_acts_alike_once_exported() -> None:
    agent = ensemble(2)
    assert largest_difference(agent, exported(agent, num_envs=3), "onnx", 3) < 1e-5


def with_critics(**settings: object) -> DecisionTransformer:
    """Three members, and critics that have something to say."""
    spec = guided(recorded()).spec
    torch.manual_seed(1)
    agent = build_agent({**spec, "num_members": 3, "settings": {**spec["settings"], **settings}})
    for network in agent.critics.slow_q:
        torch.nn.init.normal_(network[-1].weight)
    return agent


def gradients_of_members(agent: DecisionTransformer) -> list[torch.Tensor]:
    agent.loss(batch())[0].backward()
    return [head.weight.grad for head in agent.head.members]


def test_critics_guide_every_member() -> None:
    alike, untaught = with_critics(), with_critics(eta=0.0)
    for ours, theirs in zip(gradients_of_members(alike), gradients_of_members(untaught), strict=True):
        assert not torch.allclose(ours, theirs, rtol=1e-3)


def test_critics_that_choose_do_so_among_an_ensembles_actions() -> None:
    agent = with_critics(candidate_returns=[0.5, 1.0])
    agent.reset(3, 7.0)
    assert agent.act(np.zeros((3, 4)), np.zeros(3)).shape == (3, 2)
    assert largest_difference(agent, exported(agent, num_envs=3), "onnx", 3) < 1e-5


def test_critics_guide_the_members_they_are_told_to() -> None:
    each, alike, untaught = with_critics(eta=[0.0, 1.0, 0.5]), with_critics(eta=1.0), with_critics(eta=0.0)
    found, most, least = gradients_of_members(each), gradients_of_members(alike), gradients_of_members(untaught)
    torch.testing.assert_close(found[0], least[0])
    # how large a usual value is is asked of the taught members alone: the same factor for both
    second, third = (float((found[m] - least[m]).norm() / (most[m] - least[m]).norm()) for m in (1, 2))
    assert second == pytest.approx(2 * third, rel=1e-3)
    assert second > 0.1


def test_members_may_learn_by_losses_of_their_own() -> None:
    losses = ["squared", "likelihood", "absolute"]
    found = gradients_of_members(ensemble(action_loss=losses))
    for member, loss in enumerate(losses):
        alone = gradients_of_members(ensemble(action_loss=["likelihood", *[loss] * 2]))  # as wide a prediction
        if member:
            torch.testing.assert_close(found[member], alone[member])
    assert float(found[0][2:].abs().max()) == 0.0  # a spread that nothing is learnt of
    assert float(found[1][2:].abs().max()) > 0.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"action_loss": ["squared", "likelihood"]},
            "action_loss must be one for all members or one for each of the 3",
        ),
        ({"action_loss": ["squared", "likelihood", "cubed"]}, "action_loss must be one of .*; got 'cubed'"),
        ({"eta": [0.1] * 4}, "eta must be one for all members or one for each of the 3"),
        ({"eta": [0.1, -0.1, 0.0]}, "must not be negative"),
    ],
)
def test_lists_that_do_not_fit_the_members_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(AgentError, match=said):
        with_critics(**settings)
