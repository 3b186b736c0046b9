"""Preflight: does cutting work on this network? Groups that its own `forward` can't follow are left alone."""

from __future__ import annotations

import torch
from torch import nn

from gdp.errors import GDPError
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph
from gdp.removal import apply


def preflight(model: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Cut half of every group on trial, compare, and put everything back; return the graph without guilty groups.

    A literal size in `forward` (`x.view(b, 64, -1)`) can't be seen in the trace, but it fails here, before the first
    training step. Guilty groups are found by bisection and frozen with the error as the reason.
    """
    names = [g.name for g in graph.groups]
    for name, reason in _guilty(model, graph, names).items():
        graph = graph.freeze([name], reason)
    return graph


def _trial(model: nn.Module, graph: ChannelGraph, names: list[str]) -> str | None:
    """Close a random half of these groups, cut and undo; the reason if that failed."""
    random = torch.Generator().manual_seed(0)
    gates = insert_gates(model, graph)
    for name in names:
        size = graph[name].size
        gates.close(name, torch.randperm(size, generator=random)[: size // 2])
    try:
        _, _, undo = apply(model, graph, gates)
        undo()
        return None
    except GDPError as error:
        return str(error.__cause__ or error).strip().splitlines()[0]
    finally:
        gates.withdraw()


def _guilty(model: nn.Module, graph: ChannelGraph, names: list[str]) -> dict[str, str]:
    """The groups on which a trial cut fails, with the reason."""
    reason = _trial(model, graph, names) if names else None
    if reason is None:
        return {}
    if len(names) == 1:
        return {names[0]: f"forward can't follow a cut: {reason}"}
    half = len(names) // 2
    found = _guilty(model, graph, names[:half]) | _guilty(model, graph, names[half:])
    return found or {name: f"forward can't follow a cut of these groups together: {reason}" for name in names}
