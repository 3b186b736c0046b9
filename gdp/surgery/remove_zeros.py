"""Cut channels that are read by zeros only, wherever the zeros come from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from gdp.gates import insert_gates
from gdp.report import Report
from gdp.surgery.check import trace
from gdp.surgery.remove import remove


def remove_zeros(
    model: nn.Module, example_inputs: Any, ignore: Sequence[str | type] = (), blocks: bool = False
) -> Report:
    """Cut all channels of which every weight that reads them is exactly zero, in place, and return the record.

    That is what a run with spawned processes leaves (ddp_spawn, ddp_notebook): the network in the main process keeps
    its shapes, and closed channels are read by zeros. Where a group has nothing but zeros, one channel stays.

    Args:
        model: any `nn.Module` that torch.export can follow.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them.
        ignore: layers whose inputs and outputs keep their sizes: module names, globs over them, or module types.
        blocks: whole residual branches may be removed, too.

    Raises:
        GDPError: the network can't be exported or counted, or the cut is not exact; it is left as it was.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> net[2].weight.data[:, 2:5] = 0
    >>> remove_zeros(net, torch.randn(1, 3, 8, 8)).groups
    (('0', 5, 8),)
    """
    graph = trace(model, example_inputs, ignore, blocks)
    gates = insert_gates(model, graph)
    with ExitStack() as undo:
        undo.callback(gates.withdraw)
        # channels that a weight other than zero reads; the last entry stands for inputs that belong to no group
        read = torch.zeros(len(gates.gate_param) + 1, dtype=torch.bool)
        for reader in gates.readers:
            other = [dim for dim in range(reader.weight.dim()) if dim != reader.dim]
            used = reader.weight.detach().ne(0).sum(other).bool().cpu() if other else reader.weight.detach().ne(0).cpu()
            read[reader.index[used]] = True

        # close all others, but one where a group would lose its last channel and is in no branch that can be removed
        unread = {group.name: ~read[gates.spans[group.name]] for group in graph.groups}
        removable = {name for branch in graph.blocks for name in branch.groups}
        for name, channels in unread.items():
            if bool(channels.all()) and name not in removable:
                channels[0] = False
        gates.close_all(unread)
        report = remove(model, graph, gates)
        undo.pop_all()
        return report
