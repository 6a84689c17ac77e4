"""A model of token sequences made of a Backbone alone, and the loop that trains it: the paper's other experiments."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config_overrides import Composer
from minrnn import Backbone

Point = dict[str, float]


class SequenceModel(nn.Module):
    """An embedding, a backbone and a linear head: tokens [batch, time] to logits [batch, time, num_tokens]."""

    def __init__(self, backbone: Backbone, num_tokens: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_tokens, backbone.hidden_size)
        self.backbone = backbone
        self.head = nn.Linear(backbone.hidden_size, num_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(self.embed(tokens))[0])
        return logits


def settings_of(name: str) -> dict[str, Any]:
    """The backbone's keywords in which all have as many parameters as min_gru, to 2 % (configs/scaled/)."""
    settings: dict[str, Any] = Composer("train_offline").config(["experiment=backbones", f"backbone={name}"])[
        "backbone"
    ]
    return settings


def build(name: str, num_tokens: int, seed: int, **changes: Any) -> SequenceModel:
    torch.manual_seed(seed)
    return SequenceModel(Backbone(**{**settings_of(name), "dropout": 0.0, **changes}), num_tokens)


def fit(
    model: SequenceModel,
    sample: Callable[[int], tuple[Tensor, Tensor]],
    measure: Callable[[SequenceModel], Point],
    *,
    num_steps: int,
    measure_every: int,
    learning_rate: float,
    enough: Callable[[Point], bool] = lambda point: False,
    weight_decay: float = 0.01,
) -> list[Point]:
    """The points measured while it learns: {step, seconds, ...}; seconds are of training alone.

    sample(step) gives tokens and targets [batch, time], -100 where nothing is asked. Warm-up over the first tenth, then
    a cosine to a tenth of the learning rate. Ends early where `enough` holds.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    warm_up, seconds, points = max(1, num_steps // 10), 0.0, []
    for step in range(num_steps):
        began = time.perf_counter()
        progress = max(0.0, (step - warm_up) / max(1, num_steps - warm_up))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / warm_up, 0.55 + 0.45 * math.cos(math.pi * progress))
        tokens, targets = sample(step)
        loss = F.cross_entropy(model.train()(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - began
        if (step + 1) % measure_every == 0 or step + 1 == num_steps:
            with torch.inference_mode():
                points.append({"step": step + 1, "seconds": seconds, "loss": loss.item(), **measure(model.eval())})
            if enough(points[-1]):
                break
    return points
