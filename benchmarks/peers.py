"""What the training step is measured against: public models, or their shape, under one `loss(batch)`.

All take the same batch and predict the same actions; dropout, width, depth and optimizer are the caller's choice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agents.windows import Batch
from minrnn import MIXERS

OBS_DIM, ACTION_DIM = 11, 3


class PublicMinGRU(nn.Module):
    """minGRU-pytorch's log-space layer as a mixer, for training only."""

    def __init__(self, hidden_size: int, *, expansion: float) -> None:
        super().__init__()
        from minGRU_pytorch import minGRU

        self.layer = minGRU(hidden_size, expansion_factor=expansion)

    def forward(self, x: Tensor, state: Any = None, *, starts: Any = None) -> tuple[Tensor, None]:
        return self.layer(x), None


MIXERS["public_min_gru"] = PublicMinGRU


class HuggingFace(nn.Module):
    """transformers' DecisionTransformerModel: three tokens a step through its GPT-2."""

    def __init__(self, hidden_size: int, num_layers: int, dropout: float, context_length: int) -> None:
        super().__init__()
        from transformers import DecisionTransformerConfig, DecisionTransformerModel

        config = DecisionTransformerConfig(
            state_dim=OBS_DIM,
            act_dim=ACTION_DIM,
            hidden_size=hidden_size,
            n_layer=num_layers,
            n_head=1,
            n_positions=3 * context_length + 8,
            max_ep_len=1000,
            resid_pdrop=dropout,
            attn_pdrop=dropout,
            embd_pdrop=dropout,
        )
        self.model = DecisionTransformerModel(config)

    def loss(self, batch: Batch) -> Tensor:
        predicted = self.model(
            states=batch.observations,
            actions=batch.actions,
            rewards=batch.returns_to_go[..., None],
            returns_to_go=batch.returns_to_go[..., None],
            timesteps=batch.timesteps,
            attention_mask=batch.valid_mask.long(),
        ).action_preds
        return _squared_error(predicted, batch)


class CORLShaped(nn.Module):
    """The shape of CORL's decision transformer: pre-norm blocks of nn.MultiheadAttention with a causal mask."""

    def __init__(self, hidden_size: int, num_layers: int, dropout: float, context_length: int) -> None:
        super().__init__()
        self.embed_return, self.embed_action = nn.Linear(1, hidden_size), nn.Linear(ACTION_DIM, hidden_size)
        self.embed_observation, self.embed_timestep = nn.Linear(OBS_DIM, hidden_size), nn.Embedding(1001, hidden_size)
        self.norm, self.drop = nn.LayerNorm(hidden_size), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_AttentionBlock(hidden_size, dropout) for _ in range(num_layers))
        self.last_norm, self.head = nn.LayerNorm(hidden_size), nn.Linear(hidden_size, ACTION_DIM)
        length = 3 * context_length
        self.register_buffer("mask", ~torch.tril(torch.ones(length, length)).bool())

    def loss(self, batch: Batch) -> Tensor:
        time = self.embed_timestep(batch.timesteps)
        parts = [self.embed_return(batch.returns_to_go[..., None]), self.embed_observation(batch.observations)]
        tokens = torch.stack([part + time for part in (*parts, self.embed_action(batch.actions))], dim=2).flatten(1, 2)
        padded = torch.repeat_interleave(~batch.valid_mask, 3, dim=1)
        x = self.drop(self.norm(tokens))
        for block in self.blocks:
            x = block(x, self.mask[: x.shape[1], : x.shape[1]], padded)
        return _squared_error(torch.tanh(self.head(self.last_norm(x)[:, 1::3])), batch)


class _AttentionBlock(nn.Module):
    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.attention = nn.MultiheadAttention(hidden_size, 1, dropout, batch_first=True)
        layers = (nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size))
        self.mlp, self.drop = nn.Sequential(*layers, nn.Dropout(dropout)), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, padded: Tensor) -> Tensor:
        y = self.norm(x)
        y, _ = self.attention(y, y, y, attn_mask=mask, key_padding_mask=padded, need_weights=False)
        x = x + self.drop(y)
        return x + self.mlp(self.mlp_norm(x))


def _squared_error(predicted: Tensor, batch: Batch) -> Tensor:
    return (predicted - batch.actions).square().mean(-1)[batch.valid_mask].mean()
