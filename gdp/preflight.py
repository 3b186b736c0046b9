"""Preflight: does cutting work on this network? Groups that its own `forward` can't follow are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gdp.errors import GDPError
from gdp.export import run, train_inputs
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph
from gdp.removal import apply


def preflight(model: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Cut every group on trial, compare, and put everything back; return the graph without guilty groups.

    A literal size in `forward` (`x.view(b, 64, -1)`) can't be seen in the trace, but it fails here, before the first
    training step. Guilty groups are found by bisection and frozen with the error as the reason.
    """
    names = [g.name for g in graph.groups]
    for name, reason in _guilty(model, graph, names).items():
        graph = graph.freeze([name], reason)
    return graph


def _trial(model: nn.Module, graph: ChannelGraph, names: list[str]) -> str | None:
    """Cut these groups on trial, by a random share of each and down to one channel; the reason if that failed."""
    random = torch.Generator().manual_seed(0)
    with _nothing_hidden(model):
        for few in (True, False):
            gates = insert_gates(model, graph)
            try:
                for name in names:
                    size = graph[name].size
                    gone = int(torch.randint(1, size, (1,), generator=random)) if few else size - 1
                    gates.close(name, torch.randperm(size, generator=random)[:gone])
                _, _, undo = apply(model, graph, gates)
                try:
                    reason = _train_error(model, graph)
                finally:
                    undo()
                if reason is not None and _train_error(model, graph) is None:
                    return reason
            except GDPError as error:
                return str(error.__cause__ or error).strip().splitlines()[0]
            finally:
                gates.withdraw()
    return None


def _train_error(model: nn.Module, graph: ChannelGraph) -> str | None:
    """What a forward pass in train mode raises, if it raises: heads that exist there only have to follow a cut, too."""
    try:
        run(model, train_inputs(graph.inputs), training=True)
        return None
    except Exception as error:
        return f"in train mode: {str(error).strip() or repr(error)}".splitlines()[0]


@contextmanager
def _nothing_hidden(model: nn.Module) -> Iterator[None]:
    """Random numbers in place of constant weights and statistics: a scale of zero would hide what is behind it."""
    random = torch.Generator().manual_seed(0)
    was = [(t, t.data) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.numel() > 1]
    try:
        for tensor, data in was:
            if bool((data == data.flatten()[0]).all()):
                tensor.data = (torch.rand(data.shape, generator=random) + 0.5).to(data)
        yield
    finally:
        for tensor, data in was:
            tensor.data = data


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


def trained_readers_only(network: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Leave groups alone whose readers are not trained: without gradients nothing is known about their channels."""
    still = {name for name, p in network.named_parameters() if not p.requires_grad}
    for group in graph.groups:
        for axis in group.reads:
            if axis.tensor in still:
                graph = graph.freeze([group.name], f"{axis.tensor}, which reads it, is not trained")
                break
    return graph
