"""Causal self-attention as a mixer (Vaswani et al. 2017), with rotary positions (Su et al. 2021)."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.linear import Linear


class AttentionState(NamedTuple):
    """The keys and values still visible [batch, heads, steps, head_size], how many steps there were before them, and
    the step at which each row's sequence began [batch]."""

    keys: Tensor
    values: Tensor
    num_forgotten: int
    first_visible: Tensor


class AttentionBuffer(NamedTuple):
    """The same in tensors of a fixed size, a ring of `capacity` steps: keys and values [batch, heads, capacity,
    head_size], and how many steps were taken, int64 [1]."""

    keys: Tensor
    values: Tensor
    num_steps: Tensor


class Attention(nn.Module):
    """Multi-head causal attention. Its state is the past itself, not a summary of it.

    rotary: positions enter as rotations of queries and keys, so that only distances matter; False: no positions.
    window: how many steps a step sees, itself included; None for all, and a state that grows with every step.
    """

    def __init__(self, hidden_size: int, *, num_heads: int, rotary: bool, window: int | None) -> None:
        super().__init__()
        multiple = 2 * num_heads if rotary else num_heads
        if hidden_size % multiple:
            raise ValueError(f"hidden_size must be a multiple of {multiple} for {num_heads} heads; got {hidden_size}")
        if window is not None and window < 1:
            raise ValueError(f"a window of attention holds at least 1 step, or all with None; got {window}")
        self.num_heads, self.rotary, self.window = num_heads, rotary, window
        self.projection = Linear(hidden_size, 3 * hidden_size)
        self.output = Linear(hidden_size, hidden_size)

    def forward(
        self, x: Tensor, state: AttentionState | None = None, *, starts: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        batch, time, hidden_size = x.shape
        heads = self.projection(x).view(batch, time, 3 * self.num_heads, -1).transpose(1, 2)
        queries, keys, values = heads.chunk(3, dim=1)
        past = 0 if state is None else state.num_forgotten + state.keys.shape[2]
        if self.rotary:
            queries, keys = _rotate(queries, past), _rotate(keys, past)
        if state is not None:
            keys, values = torch.cat([state.keys, keys], dim=2), torch.cat([state.values, values], dim=2)
        first_visible = _first_visible(x, past, state, starts)
        sees_all = past == 0 and starts is None and (self.window is None or time <= self.window)
        mask = None if sees_all else _visible(first_visible, past + time, keys.shape[2], self.window)
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=sees_all)
        y = self.output(y.transpose(1, 2).reshape(batch, time, hidden_size))
        kept = keys.shape[2] if self.window is None else min(keys.shape[2], self.window - 1)
        keys, values = (x[:, :, x.shape[2] - kept :] for x in (keys, values))
        return y, AttentionState(keys, values, past + time - kept, first_visible[:, -1])

    def begin(self, num_rows: int, num_steps: int) -> AttentionBuffer:
        """A state of a fixed size that `step` takes in place of None, for at most num_steps steps."""
        weight, capacity = self.output.weight, min(num_steps, self.window or num_steps)
        empty = weight.new_zeros(num_rows, self.num_heads, capacity, len(weight) // self.num_heads)
        return AttentionBuffer(empty, empty.clone(), torch.zeros(1, dtype=torch.long, device=weight.device))

    def step(self, x: Tensor, state: AttentionState | AttentionBuffer | None = None) -> tuple[Tensor, Any]:
        if isinstance(state, AttentionBuffer):
            return self._step_in_buffer(x, state)
        y, state = self.forward(x[:, None], state)
        return y[:, 0], state

    def _step_in_buffer(self, x: Tensor, state: AttentionBuffer) -> tuple[Tensor, AttentionBuffer]:
        heads = self.projection(x).view(len(x), 3 * self.num_heads, 1, -1)
        queries, keys, values = heads.chunk(3, dim=1)
        if self.rotary:
            queries, keys = _rotate(queries, state.num_steps), _rotate(keys, state.num_steps)
        places = torch.arange(state.keys.shape[2], device=x.device)
        here = (places == state.num_steps % len(places))[:, None]
        keys, values = torch.where(here, keys, state.keys), torch.where(here, values, state.values)
        filled = (places <= state.num_steps)[None]
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=filled)
        return self.output(y.flatten(1)), AttentionBuffer(keys, values, state.num_steps + 1)


def _rotate(heads: Tensor, offset: int | Tensor) -> Tensor:
    """Turns each pair of channels of [batch, heads, time, head_size] by an angle proportional to its position."""
    time, size = heads.shape[2:]
    precision = torch.promote_types(heads.dtype, torch.float32)
    exponents = torch.arange(0, size, 2, device=heads.device, dtype=precision) / size
    angles = (offset + torch.arange(time, device=heads.device))[:, None] * 10000.0**-exponents
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    even, odd = heads[..., ::2], heads[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def _first_visible(x: Tensor, past: int, state: AttentionState | None, starts: Tensor | None) -> Tensor:
    """For each step [batch, time], the first step of its own sequence: the last start at or before it."""
    batch, time = x.shape[:2]
    first = x.new_zeros(batch, dtype=torch.long) if state is None else state.first_visible
    if starts is None:
        return first[:, None].expand(batch, time)
    steps = torch.arange(past, past + time, device=x.device)
    return torch.where(starts, steps, first[:, None]).cummax(dim=1).values


def _visible(first_visible: Tensor, total: int, num_keys: int, window: int | None) -> Tensor:
    """Which key each query may see, [batch, 1, time, keys]: not before its sequence or window, not after itself.

    The keys are the last num_keys of `total` steps, the queries the last of them.
    """
    steps = torch.arange(total - num_keys, total, device=first_visible.device)
    queries = steps[num_keys - first_visible.shape[1] :]
    visible = (steps >= first_visible[..., None]) & (steps <= queries[:, None])
    if window is not None:
        visible &= steps > queries[:, None] - window
    return visible[:, None]
