"""How far two networks are apart, and gates that are closed by a rule."""

import torch

import gdp


def relative(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(((p - q).abs().max() / p.abs().max()).item() for p, q in zip(a, b, strict=True))


def close_some(graph: gdp.ChannelGraph, gates: gdp.gates.Gates, share: float = 0.4) -> None:
    random = torch.Generator().manual_seed(2)
    for group in graph.groups:
        gates.close(group.name, torch.randperm(group.size, generator=random)[: max(1, int(share * group.size))])
