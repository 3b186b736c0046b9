"""How far two networks are apart, and gates that are closed by a rule."""

import torch

import gdp


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
