"""Trace a network and try its cuts before training: groups whose cut its own `forward` can't follow are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from gdp.graph import ChannelGraph, CutPlan, Frozen, ResidualBranch
from gdp.report import Report
from gdp.selection import WidthConstraints
from gdp.surgery.bisect import Bisection
from gdp.surgery.dry_run import DryRun, DryRunFailure, cut_and_compare, cut_branches_and_compare, dry_run
from gdp.tracing import trace_channels
from gdp.utils import count_flops, count_parameters, in_mode, run_and_keep, under_plain_names


def check(model: nn.Module, example_inputs: Any, ignore: Sequence[str | type] = (), blocks: bool = False) -> Report:
    """Cut every group of a network in a dry run, put everything back, and report what can be cut and what can't.

    This is what `GDPCallback` does before the first training step. The report is that of the smallest network: one
    channel left in every group. `report.remaining` is the lowest `target_flops` (fraction of the FLOPs).

    Args:
        model: any `nn.Module` that torch.export can follow; it is left as it was, mode and RNG included.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them.
        ignore: layers whose inputs and outputs keep their sizes: module names, globs over them, or module types.
        blocks: whole residual branches may be removed, too.

    Raises:
        GDPError: the network can't be exported or counted, or a pattern of `ignore` matches no module.

    >>> import torch
    >>> report = check(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(1, 3, 8, 8))
    >>> report.groups, f"{report.remaining:.3f}"
    ((('0', 1, 8),), '0.125')
    """
    graph = freeze_untrained_readers(model, trace_channels(model, example_inputs, ignore, blocks))
    graph, smallest = _dry_run_all(model, graph)
    parameters, opened = count_parameters(model), WidthConstraints.of(graph).smallest
    return Report(
        flops_before=graph.flops.dense,
        flops_after=smallest.flops if smallest else graph.flops.dense,
        flops_predicted=graph.flops.count(opened),
        params_before=parameters,
        params_after=smallest.parameters if smallest else parameters,
        groups=tuple((g.name, kept, g.size) for g, kept in zip(graph.groups, opened.tolist(), strict=True)),
        frozen=graph.frozen,
        max_abs=smallest.difference.absolute if smallest else 0.0,
        max_rel=smallest.difference.relative if smallest else 0.0,
        plan=smallest.plan if smallest else CutPlan(graph.shapes, {}),
        blocks=tuple(branch.name for branch in graph.blocks),
        dry_run=True,
        notes=graph.notes,
    )


def trace(
    model: nn.Module,
    example_inputs: Any,
    ignore: Sequence[str | type] = (),
    blocks: bool = False,
    dry_run: bool = True,
) -> ChannelGraph:
    """Find the channel groups of a network that can be cut: trace it, and try every cut.

    Args:
        model: any `nn.Module` that torch.export can follow; it is left as it was, mode and RNG included.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them. FLOPs are counted for these.
        ignore: layers whose inputs and outputs keep their sizes: module names, globs over them, or module types.
        blocks: find the residual branches that may be removed as a whole, too.
        dry_run: cut every group on trial, put everything back, and freeze groups that `forward` can't follow. Without
            it, a size that is written in `forward` is found by `remove` only.

    Raises:
        GDPError: the network can't be exported or counted, or a pattern of `ignore` matches no module.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = trace(net, torch.zeros(1, 3, 8, 8))
    >>> [(g.name, g.size, g.readers) for g in graph.groups]
    [('0', 8, ('2',))]
    """
    graph = trace_channels(model, example_inputs, ignore, blocks)
    return freeze_uncuttable_groups(model, graph) if dry_run else graph


def freeze_uncuttable_groups(model: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Cut every group in a dry run, put everything back, and return the graph with the failing groups frozen.

    A size that is written in `forward` (`x.view(b, 64, -1)`) can't be seen in the trace, but it fails here, before the
    first training step. Failing groups are found by bisection, and frozen with the error as the reason. FLOPs that
    fvcore counts in operators unknown to gdp are part of the returned graph's.

    Args:
        model: the network; it is left as it was.
        graph: its channel groups.
    """
    return _dry_run_all(model, graph)[0]


def _dry_run_all(model: nn.Module, graph: ChannelGraph) -> tuple[ChannelGraph, DryRun | None]:
    """Freeze uncuttable groups, and make a dry run of the smallest network that works.

    A network that keeps something from pass to pass is cut in both states: as training leaves it, with what it has kept
    of the whole network, and as it is now, which is how one that is loaded begins.

    Args:
        model: the network.
        graph: its channel groups.

    Returns:
        The graph that is left, and the dry run; None if no group is left.

    Raises:
        GDPError: fvcore can't count the FLOPs of the network as it is.
    """
    graph = graph.with_dense_flops(count_flops(model, graph.inputs))
    with in_mode(model, training=False):
        keeps_something = run_and_keep(model, graph.inputs)
        graph, outcome = _dry_run_until_it_works(model, graph)
    return _dry_run_until_it_works(model, graph) if keeps_something else (graph, outcome)


def _dry_run_until_it_works(model: nn.Module, graph: ChannelGraph) -> tuple[ChannelGraph, DryRun | None]:
    """Freeze uncuttable groups, and make a dry run of the smallest network that works, as the network is now.

    Args:
        model: the network.
        graph: its channel groups, with the FLOPs that fvcore counts.

    Returns:
        The graph that is left, and the dry run; None if no group is left.
    """
    while graph.groups:
        names = [g.name for g in graph.groups]
        plain = graph.with_blocks(())
        outcome = dry_run(model, graph, partial(cut_and_compare, model, plain, names))
        if isinstance(outcome, DryRun):
            return _keep_removable_branches(model, graph, outcome) if graph.blocks else (graph, outcome)
        failing = Bisection(plain, partial(_dry_run_failure, model, plain), "forward").failing_groups(names, outcome)
        for name, reason in failing.items():
            graph = graph.freeze([name], reason)
    return graph, None


def _dry_run_failure(model: nn.Module, graph: ChannelGraph, names: list[str]) -> DryRunFailure | None:
    """Return why a dry run of some groups fails; None if it works.

    Args:
        model: the network.
        graph: its channel groups.
        names: of the groups that are cut.
    """
    outcome = dry_run(model, graph, partial(cut_and_compare, model, graph, names))
    return outcome if isinstance(outcome, DryRunFailure) else None


def _keep_removable_branches(model: nn.Module, graph: ChannelGraph, with_all: DryRun) -> tuple[ChannelGraph, DryRun]:
    """Return the graph with those residual branches alone that can be removed, and the dry run without them.

    All are tried at once, and, if that fails, each by itself. A dry run takes two forward passes.

    Args:
        model: the network.
        graph: its channel groups, which can be cut, and residual branches.
        with_all: the dry run in which no branch goes.
    """

    def dry_run_without(branches: tuple[ResidualBranch, ...]) -> DryRun | DryRunFailure:
        """Remove these branches, and cut all other groups to one channel."""
        return dry_run(model, graph, partial(cut_branches_and_compare, model, graph.with_blocks(branches)))

    # all at once
    outcome = dry_run_without(graph.blocks)
    if isinstance(outcome, DryRun):
        return graph, outcome

    # each by itself
    alone = {branch: dry_run_without((branch,)) for branch in graph.blocks}
    refused = tuple(
        Frozen(branch.name, 0, f"can't go as a whole: {failure.reason}")
        for branch, failure in alone.items()
        if isinstance(failure, DryRunFailure)
    )

    # those that work together; else none
    graph = graph.with_blocks(tuple(branch for branch, found in alone.items() if isinstance(found, DryRun)))
    outcome = dry_run_without(graph.blocks) if graph.blocks else with_all
    if isinstance(outcome, DryRunFailure):
        graph, outcome = graph.with_blocks(()), with_all
    return replace(graph, frozen=graph.frozen + refused), outcome


def untrained_reason(tensor: str) -> str:
    """Return why channels stay that a tensor reads which is not trained.

    Args:
        tensor: name of the parameter.
    """
    return (
        f"{tensor}, which reads it, is not trained; set requires_grad before gdp begins, or let a finetuning callback "
        "of Lightning thaw it (BackboneFinetuning, BaseFinetuning)"
    )


def freeze_untrained_readers(network: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Return the graph with those groups frozen whose readers are not trained.

    Without gradients of the readers nothing is known about the importance of their channels.

    Args:
        network: whose parameters say by `requires_grad` whether they are trained.
        graph: its channel groups.
    """
    parameters = under_plain_names(network, network.named_parameters())
    untrained = {name for name, p in parameters.items() if not p.requires_grad}
    for group in graph.groups:
        for axis in group.reads:
            if axis.tensor in untrained - graph.unused_weights:
                graph = graph.freeze([group.name], untrained_reason(axis.tensor))
                break
    return graph
