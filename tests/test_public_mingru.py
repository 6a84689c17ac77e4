"""The public minGRU-pytorch (log-space scan, lucidrains): we agree where it is right, and see where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minGRU_pytorch.minGRU import minGRU as PublicMinGRU
from minGRU_pytorch.minLSTM import minLSTM as PublicMinLSTM
from torch import Tensor

from minrnn import scan

SIZE, CUT, TIME = 16, 11, 24


def public(kind: type[Any]) -> Any:
    torch.manual_seed(0)
    return kind(SIZE)


def projected(module: Any, x: Tensor) -> Tensor:
    """What its one linear layer gives, in our order: gates first, then the candidate."""
    layer = module.to_hidden_and_gate if isinstance(module, PublicMinGRU) else module.to_hidden_and_f_i_gate
    candidate, gates = layer(x).split([SIZE, layer.out_features - SIZE], dim=-1)
    return torch.cat([gates, candidate], dim=-1)


def inputs(time: int = TIME) -> Tensor:
    return torch.randn(2, time, SIZE, generator=torch.Generator().manual_seed(1))


CASES = [(PublicMinGRU, scan.min_gru), (PublicMinLSTM, scan.min_lstm)]


@pytest.mark.parametrize(("kind", "ours"), CASES)
def test_one_whole_sequence_is_the_same(kind: type[Any], ours: Any) -> None:
    module, x = public(kind), inputs()
    torch.testing.assert_close(ours(projected(module, x), positive=True), module(x), rtol=1e-4, atol=1e-5)


def in_two_chunks(module: Any, x: Tensor) -> Tensor:
    first, state = module(x[:, :CUT], return_next_prev_hidden=True)
    return torch.cat([first, module(x[:, CUT:], state)], dim=1)


def test_its_min_gru_may_be_cut_anywhere() -> None:
    module, x = public(PublicMinGRU), inputs()
    torch.testing.assert_close(in_two_chunks(module, x), module(x), rtol=1e-4, atol=1e-5)


def test_its_min_lstm_may_not_and_ours_may() -> None:
    module, x = public(PublicMinLSTM), inputs()
    assert (in_two_chunks(module, x) - module(x)).abs().max() > 0.1  # it takes log g(h) of the state for its log
    projection = projected(module, x)
    first = scan.min_lstm(projection[:, :CUT], positive=True)
    second = scan.min_lstm(projection[:, CUT:], first[:, -1], positive=True)
    torch.testing.assert_close(torch.cat([first, second], dim=1), module(x), rtol=1e-4, atol=1e-5)


def test_its_scan_loses_in_log_space_what_ours_keeps() -> None:
    projection = torch.randn(1, 4096, 2 * SIZE, generator=torch.Generator().manual_seed(2))
    projection[..., :SIZE] *= 20
    share, candidate = scan.min_gru_gates(projection.double(), positive=True)
    exact = scan.recurrence(1 - share, share * candidate)

    def error(h: Tensor) -> float:
        return float((h - exact).abs().max() / exact.abs().max())

    module = public(PublicMinGRU)
    module.to_hidden_and_gate = torch.nn.Identity()
    theirs = module(torch.cat([projection[..., SIZE:], projection[..., :SIZE]], dim=-1))
    assert error(scan.min_gru(projection, positive=True)) < 1e-6
    assert error(theirs) > 1e-4
