"""Preflight: does cutting work on this network? Groups that its own `forward` can't follow are left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from gdp.graph import ChannelGraph, CutPlan, Frozen, ResidualBranch
from gdp.report import Report
from gdp.selection import WidthConstraints
from gdp.surgery.dry_run import DryRun, DryRunFailure, cut_and_compare, cut_branches_and_compare, dry_run
from gdp.tracing import trace
from gdp.utils import count_flops, count_parameters, under_plain_names


def check(model: nn.Module, example_inputs: Any, ignore: Sequence[str | type] = (), blocks: bool = False) -> Report:
    """Cut every group of a network on trial, put everything back, and say what can go and what must stay, and why.

    This is what `GDPCallback` does before the first training step. The report is that of the smallest network: one
    channel left in every group. `report.remaining` is the lowest `target_flops`.

    Args:
        model: any `nn.Module` that torch.export can follow; it is left as it was, mode and RNG included.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them.
        ignore: layers whose inputs and outputs keep their sizes: module names, globs over them, or module types.
        blocks: whole residual branches may go, too.

    Raises:
        GDPError: the network can't be exported or counted, or a pattern of `ignore` matches no module.

    >>> import torch
    >>> report = check(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(1, 3, 8, 8))
    >>> report.groups, f"{report.remaining:.3f}"
    ((('0', 1, 8),), '0.125')
    """
    graph, smallest = _dry_run_all(model, freeze_untrained_readers(model, trace(model, example_inputs, ignore, blocks)))
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
        blocks=tuple(block.name for block in graph.blocks),
        dry_run=True,
    )


def freeze_uncuttable_groups(model: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Cut every group on trial, compare, and put everything back; return the graph without guilty groups.

    A literal size in `forward` (`x.view(b, 64, -1)`) can't be seen in the trace, but it fails here, before the first
    training step. Guilty groups are found by bisection and frozen with the error as the reason. FLOPs that fvcore
    counts in operators unknown to gdp are part of the returned graph's.
    """
    return _dry_run_all(model, graph)[0]


def _dry_run_all(model: nn.Module, graph: ChannelGraph) -> tuple[ChannelGraph, DryRun | None]:
    """`preflight`, and the smallest network that worked; None if no group is left."""
    while graph.groups:
        names = [g.name for g in graph.groups]
        plain = graph.with_blocks(())
        outcome = dry_run(model, partial(cut_and_compare, model, plain, names))
        if isinstance(outcome, DryRun):
            beyond = outcome.flops - plain.flops.count(WidthConstraints.of(plain).smallest)
            graph = graph.with_dense_flops(graph.flops.dense + beyond)
            return _keep_removable_branches(model, graph) if graph.blocks else (graph, outcome)
        for name, reason in _bisect_failing_groups(model, plain, names, outcome).items():
            graph = graph.freeze([name], reason)
    return graph.with_dense_flops(count_flops(model, graph.inputs)), None


def _keep_removable_branches(model: nn.Module, graph: ChannelGraph) -> tuple[ChannelGraph, DryRun]:
    """Try the network without all of its blocks, and, if that fails, each by itself; two forward passes each."""

    def tried(blocks: tuple[ResidualBranch, ...]) -> DryRun | DryRunFailure:
        return dry_run(model, partial(cut_branches_and_compare, model, graph.with_blocks(blocks)))

    outcome = tried(graph.blocks)
    if isinstance(outcome, DryRun):
        return graph, outcome
    alone = {block: tried((block,)) for block in graph.blocks}
    refused = tuple(
        Frozen(block.name, 0, f"can't go as a whole: {failure.reason}")
        for block, failure in alone.items()
        if isinstance(failure, DryRunFailure)
    )
    graph = graph.with_blocks(tuple(block for block, found in alone.items() if isinstance(found, DryRun)))
    outcome = tried(graph.blocks)
    if isinstance(outcome, DryRunFailure):  # only together
        graph = graph.with_blocks(())
        outcome = tried(())
    assert isinstance(outcome, DryRun)  # one channel left everywhere has been tried before
    return replace(graph, frozen=graph.frozen + refused), outcome


def _bisect_failing_groups(
    model: nn.Module, graph: ChannelGraph, names: list[str], failure: DryRunFailure
) -> dict[str, str]:
    """The groups of a failing trial on which it fails already, with the reason."""
    if len(names) == 1:
        return {names[0]: f"forward can't follow a cut: {_explain(failure, graph[names[0]].lines)}"}
    found: dict[str, str] = {}
    suspects = [n for n in names if failure.line and failure.line in graph[n].lines]
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    for half in (suspects, [n for n in names if n not in suspects]) if 0 < len(suspects) < len(names) else halves:
        outcome = dry_run(model, partial(cut_and_compare, model, graph, half))
        if isinstance(outcome, DryRunFailure):
            found |= _bisect_failing_groups(model, graph, half, outcome)
    together = f"forward can't follow a cut of these groups together: {_explain(failure, ())}"
    return found or dict.fromkeys(names, together)


def _explain(failure: DryRunFailure, lines: tuple[str, ...]) -> str:
    """The reason with the lines of source where a size is written, as torch.export and the error know them."""
    where = f", raised at {failure.line}" if failure.line else ""
    written = [line for line in lines if line != failure.line]
    return failure.reason + where + (f"; a size may be written at {' or at '.join(written[:2])}" if written else "")


def freeze_untrained_readers(network: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Leave groups alone whose readers are not trained: without gradients nothing is known about their channels."""
    still = {name for name, p in under_plain_names(network.named_parameters()).items() if not p.requires_grad}
    for group in graph.groups:
        for axis in group.reads:
            if axis.tensor in still:
                graph = graph.freeze([group.name], f"{axis.tensor}, which reads it, is not trained")
                break
    return graph
