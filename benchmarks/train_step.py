"""One gradient step of the agent on every backbone, against public decision transformers and the matrix products alone.

python benchmarks/train_step.py [--context-lengths 20 60 1000] [--dropout 0.1] [--threads 1]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measuring import alternate, arguments, bars, milliseconds, ratio, report
from peers import ACTION_DIM, OBS_DIM, CORLShaped, HuggingFace
from torch import Tensor, nn

from agents.checkpoint import build_agent
from agents.recording import STEPS_BEFORE, Recording
from agents.windows import Batch

MIXER_KEYWORDS: dict[str, dict[str, Any]] = {
    "min_gru": {"expansion": 1.5, "positive": False, "memory_length": None},
    "min_lstm": {"expansion": 1.5, "positive": False, "memory_length": None},
    "gru": {"expansion": 1.0},
    "lstm": {"expansion": 1.0},
    "attention": {"num_heads": 1, "rotary": True, "window": None},
    "public_min_gru": {"expansion": 1.5},
}


CRITICS = {"advantage_weight": 0.0, "critic_size": 128, "discount": 0.99, "trace": 0.9, "expectile": 0.7}
MEMBER: dict[str, Any] = {"condition_on_return": False}
MEMBERS: dict[str, Any] = {"num_members": 3, "action_loss": ["squared", "likelihood", "likelihood"], **MEMBER}
GUIDED: dict[str, Any] = {"name": "value_guided", "eta": [0.0, 0.05, 0.05], **MEMBERS, **CRITICS}
AGENTS: list[tuple[str, dict[str, Any], int]] = [  # name, settings, how many times the steps are in a batch
    ("min_gru, filtered_bc (one member)", MEMBER, 1),
    ("min_gru, ensemble (three members, the default agent)", MEMBERS, 1),
    ("min_gru, value_guided (three members, critics)", GUIDED, 2),
]


def main() -> None:
    chosen = arguments(__doc__, context_lengths=[20, 60, 1000], num_steps=1280, hidden_size=128, dropout=0.0, rounds=10)
    rows = [row for length in chosen.context_lengths for row in measure(length, chosen)]
    note = (
        f"{chosen.num_steps} environment steps, width {chosen.hidden_size}, 3 blocks, dropout {chosen.dropout}; "
        "forward + backward + clipping + AdamW. "
        "x: times of min_gru with one token a step, paired. matrix products: those of that min_gru alone, "
        "by torch.mm and, on AMD, by oneDNN. recorded: as CUDA graphs, as the agents learn on a GPU."
    )
    report("train_step", rows, chosen, note=note, figure=bars(rows, "ms a step", "model", "context"))


def measure(context_length: int, chosen: Any) -> list[dict[str, Any]]:
    batch = random_batch(max(1, chosen.num_steps // context_length), context_length)
    models: dict[str, Any] = {name: our_agent(name, "merged", chosen) for name in MIXER_KEYWORDS}
    small = matching_width("gru", count(models["min_gru"]), chosen)
    models[f"gru, as many parameters (width {small})"] = our_agent("gru", "merged", chosen, small)
    if context_length <= 60:
        models["min_gru, 3 tokens"] = our_agent("min_gru", "interleaved", chosen)
        models["attention, 3 tokens"] = our_agent("attention", "interleaved", chosen)
        for kind in (HuggingFace, CORLShaped):
            models[f"{kind.__name__}, 3 tokens"] = kind(chosen.hidden_size, 3, chosen.dropout, context_length)
    steps: dict[str, Callable[[], object]] = {name: training_step(model, batch) for name, model in models.items()}
    for name, settings, share in AGENTS:
        models[name] = our_agent("min_gru", "merged", chosen, **settings)
        shown = random_batch(share * len(batch.actions), context_length)
        if share > 1:  # as the sampler gives them: windows to imitate, then those from which the critics alone learn
            imitated = torch.arange(len(shown.actions)) < len(batch.actions)
            shown = shown._replace(imitated=imitated[:, None].expand(shown.valid_mask.shape).contiguous())
        steps[name] = training_step(models[name], shown)
        if chosen.device.startswith("cuda"):
            models[f"{name}, recorded"] = our_agent("min_gru", "merged", chosen, **settings)
            steps[f"{name}, recorded"] = recorded_step(models[f"{name}, recorded"], shown)
    steps |= matrix_products(models["min_gru"], batch, chosen.device)
    times = alternate(steps, chosen.rounds)
    return [
        {
            "context": context_length,
            "model": name,
            "parameters": count(models[name]) if name in models else "",
            "ms a step": milliseconds(times, name),
            "x": ratio(times, name, "min_gru"),
        }
        for name in steps
    ]


def our_agent(
    backbone: str, token_layout: str, chosen: Any, hidden_size: int | None = None, **changes: Any
) -> nn.Module:
    """A decision transformer, or what the changes make of it."""
    torch.manual_seed(0)
    stack = {"hidden_size": hidden_size or chosen.hidden_size, "num_layers": 3, "mlp_ratio": 4.0}
    settings: dict[str, Any] = {
        "observation_mean": [0.0] * OBS_DIM,
        "observation_std": [1.0] * OBS_DIM,
        "return_scale": 1000.0,
        "context_length": 20,
        "token_layout": token_layout,
        "condition_on_return": True,
        "max_timesteps": None,
        "acting_mode": "carried",
        **changes,
    }
    name, num_members = settings.pop("name", "decision_transformer"), settings.pop("num_members", 1)
    mixer = {"name": backbone, **stack, "dropout": chosen.dropout, "mixer": MIXER_KEYWORDS[backbone]}
    actions = {"low": [-1.0] * ACTION_DIM, "high": [1.0] * ACTION_DIM}
    spec = {"name": name, "backbone": mixer, "actions": actions, "settings": settings, "num_members": num_members}
    return build_agent(spec)


def matching_width(backbone: str, num_parameters: int, chosen: Any) -> int:
    """The width at which this backbone has about as many parameters."""
    widths = range(chosen.hidden_size // 2, 2 * chosen.hidden_size, 4)
    return min(widths, key=lambda width: abs(count(our_agent(backbone, "merged", chosen, width)) - num_parameters))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def random_batch(batch_size: int, context_length: int) -> Batch:
    shape = (batch_size, context_length)
    actions = torch.rand(*shape, ACTION_DIM) * 2 - 1
    timesteps = torch.arange(context_length).expand(shape) % 1000
    valid_mask = torch.ones(shape, dtype=torch.bool)
    before, returns, rewards = actions.roll(1, 1), torch.rand(shape), torch.rand(shape)
    return Batch(torch.randn(*shape, OBS_DIM), actions, before, returns, timesteps, valid_mask, rewards, ~valid_mask)


def training_step(model: Any, batch: Batch) -> Callable[[], None]:
    find, apply = halves_of_a_step(model)

    def step() -> None:
        find(batch)
        apply()

    return step


def recorded_step(model: Any, batch: Batch) -> Callable[[], None]:
    """As the agents' learner does it on a GPU: replayed from a recording, the batch copied from pinned memory."""
    find, apply = halves_of_a_step(model)
    for _ in range(STEPS_BEFORE):
        find(batch)
        apply()
    given = Batch(*(None if tensor is None else tensor.cpu().pin_memory() for tensor in batch))  # type: ignore[arg-type]
    recording = Recording(batch, find, apply)

    def step() -> None:
        recording.find(given)
        recording.apply()

    return step


def halves_of_a_step(model: Any) -> tuple[Callable[[Batch], None], Callable[[], None]]:
    """What finds the gradients of a batch, and what applies them."""
    model.train()
    on_gpu = next(model.parameters()).is_cuda
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=on_gpu)

    def find(batch: Batch) -> None:
        found = model.loss(batch)
        loss: Tensor = found[0] if isinstance(found, tuple) else found
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)

    return find, optimizer.step


def matrix_products(model: nn.Module, batch: Batch, device: str) -> dict[str, Callable[[], None]]:
    """The three products of each linear layer, and nothing else, by either library."""
    from minrnn.linear import prefers_onednn, product

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    rows = batch.valid_mask.numel()
    tensors = [(torch.randn(rows, m.in_features), m.weight.detach(), torch.randn(rows, m.out_features)) for m in layers]

    def by_mm() -> None:
        for x, weight, grad in tensors:
            torch.mm(x, weight.t())
            torch.mm(grad, weight)
            torch.mm(grad.t(), x)

    def by_onednn() -> None:
        for x, weight, grad in tensors:
            product(x, weight)
            product(grad, weight.t())
            product(grad.t(), x.t()) if weight.shape[0] < weight.shape[1] else product(x.t(), grad.t())

    use_onednn = device == "cpu" and prefers_onednn()
    return {"matrix products (torch.mm)": by_mm} | ({"matrix products (oneDNN)": by_onednn} if use_onednn else {})


if __name__ == "__main__":
    main()
