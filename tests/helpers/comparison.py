"""How far two networks or histories are apart, and gates that are closed by a rule."""

import pytest
import torch

import gdp
from gdp.report import BINS, History


def relative(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(((p - q).abs().max() / p.abs().max()).item() for p, q in zip(a, b, strict=True))


def close_some(graph: gdp.ChannelGraph, gates: gdp.gates.Gates, share: float = 0.4) -> None:
    random = torch.Generator().manual_seed(2)
    for group in graph.groups:
        gates.close(group.name, torch.randperm(group.size, generator=random)[: max(1, int(share * group.size))])


def assert_same_history(one, other) -> None:
    numbers = ("steps", "flops", "allowed", "lagrange_multiplier", "interval")
    assert all(getattr(one, name) == getattr(other, name) for name in numbers)
    for name in ("values", "open_counts"):
        tables = getattr(one, name), getattr(other, name)
        assert tables[0] == tables[1]


def assert_history_is_of(history: History, report: gdp.Report) -> None:
    """The last entry is what the report says is left."""
    assert history.open_counts[-1] == [kept for _, kept, _ in report.groups]
    assert history.flops[-1] == pytest.approx(report.remaining)
    kept, total = (sum(group[i] for group in report.groups) for i in (1, 2))
    assert history.values[-1][0] == total - kept and sum(history.values[-1][BINS // 2 :]) == kept
