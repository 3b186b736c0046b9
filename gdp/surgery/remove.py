"""Remove closed channels for good: fold open gates, cut, verify, and put everything back if it is not exact."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.gates import Gates
from gdp.graph import ChannelGraph, CutPlan
from gdp.report import Report, register_report, report_of
from gdp.surgery.entries import Undo
from gdp.surgery.fold import fold
from gdp.surgery.shrink import cut_network_and_copies, plan_for
from gdp.surgery.verify import change_and_verify
from gdp.utils import Difference, count_flops, count_parameters, under_plain_names


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
    report, _ = remove_undoably(model, graph, gates, optimizers)
    register_report(model, report)
    gates.deep_copies.fold(gates.readers)
    return report


def remove_undoably(
    model: nn.Module, graph: ChannelGraph, gates: Gates, optimizers: Iterable[Optimizer] = ()
) -> tuple[Report, Undo]:
    """Do what `remove` does, and return what puts everything back as well; the report is not kept for the network yet.

    Args:
        model: the network that holds the gates.
        graph: its channel groups.
        gates: of the network.
        optimizers: whose state is cut along.

    Raises:
        GDPError: as `remove` does.
    """
    # what is to be expected
    graph, removed = with_unknown_flops(model, graph, gates), gates.gate_param.cpu() == 0
    predicted, params_before = graph.flops.count(counts_without(gates, removed)), dense_parameters(model, graph)

    # cut, verify, count, and report, cuts that were made during training included
    gates.deep_copies.update(gates.readers)
    difference, undo = change_and_verify(model, graph, partial(_fold_and_cut, gates), optimizers)
    with ExitStack() as put_back:
        put_back.callback(undo)
        flops_after = _count_after_cut(model, graph, predicted)
        cost = params_before, flops_after
        report = report_of_cut(model, graph, gates, removed, cost, difference.maximum(gates.difference))
        return report, put_back.pop_all().close


def report_of_cut(
    model: nn.Module,
    graph: ChannelGraph,
    gates: Gates,
    removed: Tensor,
    cost: tuple[int, int],
    difference: Difference,
    failure: str | None = None,
) -> Report:
    """Return the report on a network from which channels have been cut for good.

    Args:
        model: the network as it is now.
        graph: its channel groups.
        gates: that it had.
        removed: the channels that are cut, one bool per channel of all groups.
        cost: parameters of the dense network, and FLOPs of the network as it is now.
        difference: the largest that any cut has made to the outputs.
        failure: why other closed channels were not cut.
    """
    opened = counts_without(gates, removed)
    pruned = [i for i, group in enumerate(graph.groups) if not graph.is_held(group)]
    plan, earlier = CutPlan.of(graph, gates.indices(removed)), report_of(model)
    return Report(
        flops_before=graph.flops.dense,
        flops_after=cost[1],
        flops_predicted=graph.flops.count(opened),
        params_before=cost[0],
        params_after=count_parameters(model),
        groups=tuple((graph.groups[i].name, int(opened[i]), graph.groups[i].size) for i in pruned),
        frozen=graph.staying,
        max_abs=difference.absolute,
        max_rel=difference.relative,
        blocks=tuple(branch.name for branch in plan.blocks),
        history=gates.history.of_groups(pruned),
        plan=plan if earlier is None else plan.compose(earlier.plan),
        notes=graph.notes,
        failure=failure,
    )


def counts_without(gates: Gates, removed: Tensor) -> Tensor:
    """Return the channels per group that are left without some, shape (groups,).

    Args:
        gates: of the network.
        removed: one bool per channel of all groups.
    """
    return torch.bincount(gates.group_of[~removed], minlength=len(gates.graph.groups))


def dense_parameters(model: nn.Module, graph: ChannelGraph) -> int:
    """Return the number of elements of all parameters in the dense network.

    Args:
        model: the network, before whole branches go.
        graph: of the dense network.
    """
    parameters = under_plain_names(model, model.named_parameters())
    return sum(math.prod(graph.shapes.get(name, p.shape)) for name, p in parameters.items())


def with_unknown_flops(model: nn.Module, graph: ChannelGraph, gates: Gates) -> ChannelGraph:
    """Return the graph with the FLOPs that fvcore counts in operators unknown to gdp, which are a constant.

    Args:
        model: the network.
        graph: its channel groups.
        gates: of the network; they know which channels have been cut already.
    """
    beyond = count_flops(model, graph.inputs) - graph.flops.count(counts_without(gates, gates.removed))
    return graph.with_dense_flops(graph.flops.dense + beyond)


def _count_after_cut(model: nn.Module, graph: ChannelGraph, predicted: int) -> int:
    """Return the FLOPs of the cut network as fvcore counts them, and warn if they are not as predicted.

    Args:
        model: the network.
        graph: with the example input.
        predicted: FLOPs that the graph gives for the open channels.

    Raises:
        GDPError: the FLOPs can't be counted.
    """
    flops = count_flops(model, graph.inputs)
    if flops != predicted:
        warnings.warn(
            f"fvcore counts {flops:,} FLOPs where gdp predicted {predicted:,}: an operator of "
            f"{type(model).__name__} is counted in a way gdp does not know. The removal itself is exact.",
            stacklevel=4,
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
