"""A step that is recorded and replayed learns what it would have learnt step by step, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_learner import weights
from test_value_guided import GUIDANCE
from toys import BACKBONES, new_agent, recorded

from agents import WindowSampler, build_agent, recording
from agents.learner import Learner, LearningError
from agents.value_guided import ValueGuided
from agents.windows import Batch

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def played_again() -> Any:
    """As `recording.on_gpu`: recording computes nothing, and what is replayed is found in the same place."""

    def record(function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        place: list[Any] = []

        def replay() -> None:
            place[:] = function() or ()

        return place, replay

    return record


def learner_of(kind: str, backbone: str, device: str = "cpu", **settings: Any) -> Learner:
    episodes = recorded((40, 60, 30))
    spec: dict[str, Any] = new_agent(episodes, backbone).spec
    if kind != "one":
        losses = ["squared", "likelihood", "likelihood"]
        spec = {**spec, "num_members": 3, "settings": {**spec["settings"], "action_loss": losses}}
    if kind == "guided":
        spec = {**spec, "name": "value_guided", "settings": {**spec["settings"], **GUIDANCE, "eta": [0.0, 0.5, 1.0]}}
    spec["backbone"]["dropout"] = 0.2
    torch.manual_seed(0)
    agent = build_agent(spec).to(device)
    sampler = WindowSampler(episodes, context_length=5, top_fraction=0.4, others=1.0 if kind == "guided" else 0.0)
    usual: dict[str, Any] = {"batch_size": 8, "num_steps": 20, "learning_rate": 3e-3, "warmup_steps": 12}
    usual |= {"schedule": "cosine", "weight_decay": 1e-4, "max_grad_norm": 1.0, "ema_decay": 0.9, "seed": 3}
    return Learner(agent, sampler, **{**usual, **settings})


def learnt(learner: Learner, steps: range) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in learner.update(step).items()} for step in steps]


@pytest.mark.parametrize("kind", ["one", "three", "guided"])
def test_a_replayed_step_learns_what_it_would_have_learnt(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "on_gpu", played_again)
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch)
    expected, found = learner_of(kind, "min_gru"), learner_of(kind, "min_gru")
    found._records = True
    metrics = learnt(expected, range(9))
    assert learnt(found, range(9)) == metrics
    assert found._recording is not None
    assert expected._recording is None
    assert len({values["loss"] for values in metrics}) == 9
    theirs, ours = weights(expected), weights(found)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_a_recording_is_forgotten_where_a_saved_state_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "on_gpu", played_again)
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch)
    found, expected = learner_of("one", "min_gru"), learner_of("one", "min_gru")
    found._records = True
    learnt(expected, range(6))
    state = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    acting = {name: tensor.clone() for name, tensor in expected.acting_agent.state_dict().items()}
    learnt(found, range(8))
    assert found._recording is not None
    found.load_state_dict(state, acting, 6)
    assert found._recording is None
    assert learnt(found, range(6, 12)) == learnt(expected, range(6, 12))
    assert found._recording is not None


def test_a_replayed_step_that_is_not_finite_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "on_gpu", played_again)
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch)
    learner = learner_of("one", "min_gru", when_not_finite="skip")
    learner._records = True
    learnt(learner, range(5))
    before = weights(learner)
    learner.sampler.episodes.observations[:] = float("nan")
    learner._drawn.clear()
    assert learnt(learner, range(5, 6))[0]["skipped"] == 1.0
    after = weights(learner)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_recorded_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = property(lambda agent: torch.device("cuda"))
    monkeypatch.setattr(type(learner_of("one", "min_gru").agent), "device", on_gpu)
    monkeypatch.setattr(torch, "tensor", _on_cpu(torch.tensor))
    monkeypatch.setattr(torch, "compile", lambda module: module)
    assert learner_of("one", "min_gru")._records
    assert not learner_of("one", "min_gru", accumulate=2)._records
    assert not learner_of("one", "min_gru", compile=True)._records
    assert not learner_of("one", "min_gru", record=False)._records


def test_a_step_that_cannot_be_recorded_says_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        def record(function: Callable[[], Any]) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

        return record

    monkeypatch.setattr(recording, "on_gpu", refuse)
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch)
    learner = learner_of("one", "min_gru")
    learner._records = True
    with pytest.raises(LearningError, match=r"when stream is capturing\). train.record=false learns without"):
        learnt(learner, range(5))


def _on_cpu(tensor: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *values, device=None, **settings: tensor(*values, **settings)


def test_windows_that_do_not_count_teach_the_policy_nothing_whether_left_out_or_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = learner_of("guided", "min_gru")
    agent = learner.agent
    agent.eval()
    for network in agent.critics.slow_q:  # type: ignore[union-attr]
        torch.nn.init.normal_(network[-1].weight)
    batch = learner.sampler.sample(8, seed=0, step=0)
    assert batch.imitated is not None
    assert not batch.imitated.any(1).all()
    found = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(ValueGuided, "device", property(lambda _, kind=device: torch.device(kind)))
        agent.zero_grad()
        loss, metrics = agent.loss(batch)
        loss.backward()
        gradients = {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach(), **metrics, **gradients})
    left_out, hidden = found
    assert left_out.keys() == hidden.keys()
    for name in left_out:
        torch.testing.assert_close(left_out[name], hidden[name], rtol=1e-5, atol=1e-6)


@ON_GPU
@pytest.mark.parametrize(
    ("kind", "backbone"), [*(("one", name) for name in sorted(BACKBONES)), ("three", "min_gru"), ("guided", "min_gru")]
)
def test_on_a_gpu_too(kind: str, backbone: str) -> None:
    expected, found = learner_of(kind, backbone, "cuda"), learner_of(kind, backbone, "cuda")
    assert found._records
    expected._num_updates = recording.STEPS_BEFORE + 1  # never recorded
    assert learnt(found, range(12)) == learnt(expected, range(12))
    assert found._recording is not None
    assert expected._recording is None
    theirs, ours = weights(expected), weights(found)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@ON_GPU
def test_a_gpu_goes_on_from_a_saved_state_bit_for_bit() -> None:
    uninterrupted, first, second = (learner_of("three", "min_gru", "cuda") for _ in range(3))
    expected = learnt(uninterrupted, range(14))
    learnt(first, range(6))
    second.load_state_dict(first.state_dict(), first.acting_agent.state_dict(), 6)
    assert learnt(second, range(6, 14)) == expected[6:]
    theirs, ours = weights(uninterrupted), weights(second)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
