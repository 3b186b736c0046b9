"""Remove closed channels for good: fold open gates, cut, verify, and put everything back if it is not exact."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.gates import Gates
from gdp.graph import ChannelGraph, CutPlan
from gdp.report import Report, register_report, report_of
from gdp.surgery.entries import Undo
from gdp.surgery.shrink import cut_network_and_copies, plan_for
from gdp.surgery.verify import change_and_verify
from gdp.utils import count_flops, count_parameters, under_plain_names


def fold(gates: Gates) -> Undo:
    """Multiply the gates into the weights behind them and take them away; return what puts them back.

    Args:
        gates: of the network, copies of it included.
    """
    folded: set[tuple[int, int]] = set()
    with ExitStack() as undo:
        undo.callback(gates.restore)  # after the weights
        for reader in gates.readers_and_copies:
            weight = reader.weight
            if (id(weight), reader.dim) not in folded:  # a weight that layers share is folded once
                folded.add((id(weight), reader.dim))
                undo.callback(setattr, weight, "data", weight.data)
                weight.data = weight.data * reader.gate.to(weight.dtype)
        gates.withdraw()
        return undo.pop_all().close


def _fold_and_cut(gates: Gates, optimizers: Iterable[Optimizer]) -> Undo:
    """Fold the gates, and cut all closed channels out of the network and its copies; return what undoes it.

    Args:
        gates: of the network.
        optimizers: whose state is cut along.
    """
    plan = plan_for(gates, gates.gate_param.cpu() == 0)
    with ExitStack() as undo:
        undo.callback(fold(gates))
        undo.callback(cut_network_and_copies(gates, plan, optimizers))
        return undo.pop_all().close


def remove(model: nn.Module, graph: ChannelGraph, gates: Gates, optimizers: Iterable[Optimizer] = ()) -> Report:
    """Fold the open gates into the convs behind them, cut the closed channels, in place, and return the report.

    Afterwards the network is plain: the user's modules with smaller tensors. Parameters keep their identity.

    Args:
        model: the network that holds the gates.
        graph: its channel groups.
        gates: of `insert_gates(model, graph)`.
        optimizers: whose state is cut along.

    Raises:
        GDPError: the gates are not those of this network and graph, or the cut network differs from the gated one by
            more than rounding, or does not run. Network, gates and optimizers are then as they were.

    >>> import gdp, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = gdp.trace(net, torch.randn(1, 3, 8, 8))
    >>> gates = gdp.insert_gates(net, graph)
    >>> gates.close("0", [1, 2, 5])
    >>> report = gdp.remove(net, graph, gates)
    >>> net[2].in_channels, report.flops_after == report.flops_predicted
    (5, True)
    """
    _check_gates_belong(model, graph, gates)

    # what is to be expected
    plan, opened = CutPlan.of(graph, gates.closed), gates.open_counts
    graph = _with_unknown_flops(model, graph, gates)
    predicted = graph.flops.count(opened)
    params_before = sum(
        math.prod(graph.shapes.get(name, p.shape))
        for name, p in under_plain_names(model, model.named_parameters()).items()
    )

    # cut, verify, and count
    difference, undo = change_and_verify(model, graph.inputs, partial(_fold_and_cut, gates), optimizers)
    flops_after = _count_after_cut(model, graph, predicted, undo)

    # report, cuts that were made during training included
    difference, earlier = difference.maximum(gates.difference), report_of(model)
    pruned = [i for i, group in enumerate(graph.groups) if not graph.is_held(group)]
    report = Report(
        flops_before=graph.flops.dense,
        flops_after=flops_after,
        flops_predicted=predicted,
        params_before=params_before,
        params_after=count_parameters(model),
        groups=tuple((graph.groups[i].name, int(opened[i]), graph.groups[i].size) for i in pruned),
        frozen=graph.staying,
        max_abs=difference.absolute,
        max_rel=difference.relative,
        blocks=tuple(branch.name for branch in plan.blocks),
        history=gates.history.of_groups(pruned),
        plan=plan if earlier is None else plan.compose(earlier.plan),
    )
    register_report(model, report)
    return report


def _with_unknown_flops(model: nn.Module, graph: ChannelGraph, gates: Gates) -> ChannelGraph:
    """Return the graph with the FLOPs that fvcore counts in operators unknown to gdp, which are a constant.

    Args:
        model: the network.
        graph: its channel groups.
        gates: of the network; they know which channels have been cut already.
    """
    present = graph.flops.sizes - torch.bincount(gates.group_of[gates.removed], minlength=len(graph.groups))
    beyond = count_flops(model, graph.inputs) - graph.flops.count(present)
    return graph.with_dense_flops(graph.flops.dense + beyond)


def _count_after_cut(model: nn.Module, graph: ChannelGraph, predicted: int, undo: Undo) -> int:
    """Return the FLOPs of the cut network as fvcore counts them, and warn if they are not as predicted.

    Args:
        model: the network.
        graph: with the example input.
        predicted: FLOPs that the graph gives for the open channels.
        undo: undoes the cut; called if the FLOPs can't be counted.

    Raises:
        GDPError: the FLOPs can't be counted.
    """
    try:
        flops = count_flops(model, graph.inputs)
    except GDPError:
        undo()
        raise
    if flops != predicted:
        warnings.warn(
            f"fvcore counts {flops:,} FLOPs where gdp predicted {predicted:,}: an operator of "
            f"{type(model).__name__} is counted in a way gdp does not know. The removal itself is exact.",
            stacklevel=3,
        )
    return flops


def _check_gates_belong(model: nn.Module, graph: ChannelGraph, gates: Gates) -> None:
    """Check that the gates are those of this network and graph, and still in it.

    Args:
        model: the network.
        graph: its channel groups.
        gates: to be checked.

    Raises:
        GDPError: they are not.
    """
    if gates.model is not model or [g.name for g in gates.graph.groups] != [g.name for g in graph.groups]:
        raise GDPError(
            "These gates belong to another network or graph; pass those that insert_gates(model, graph) gave."
        )
    if not gates.inserted:
        raise GDPError(
            f"The gates are no longer in this {type(model).__name__}: it was cut already, or they were withdrawn."
        )
