"""Make dry runs: cut channels, compare with the network whose channels are closed, and put everything back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph, CutPlan
from gdp.selection import WidthConstraints
from gdp.surgery.activations import mean_activations
from gdp.surgery.cut import cut
from gdp.surgery.temporary_weights import ClosedChannels, constants_randomized, zero_closed_inputs
from gdp.utils import (
    NORM,
    Difference,
    count_and_run,
    count_parameters,
    double_batch,
    first_line,
    in_float64,
    randomize_inputs,
    run_forward,
    source_line,
)


@dataclass(frozen=True)
class DryRun:
    """A dry run that worked: the cut network runs, and computes what the gated one does.

    Attributes:
        difference: between the outputs of the two.
        plan: by which the network was cut.
        flops: of the cut network, counted by fvcore.
        parameters: their number in the cut network.
    """

    difference: Difference
    plan: CutPlan
    flops: int
    parameters: int


@dataclass(frozen=True)
class DryRunFailure:
    """A dry run that failed.

    Attributes:
        reason: the error in words.
        line: of the network's source that raised it, `file:line: code`; empty if none did.
    """

    reason: str
    line: str = ""


# what came of a dry run; whether its difference is exact in the type of the network; whether it is at least tolerable
Outcome = tuple[DryRun | DryRunFailure, bool, bool]


def dry_run(model: nn.Module, attempt: Callable[[], Outcome]) -> DryRun | DryRunFailure:
    """Make a dry run, and repeat it in float64 where the network's own type can't tell a wrong cut from rounding.

    Args:
        model: the network; it is left as it was.
        attempt: cuts the network, compares, and puts everything back.

    Raises:
        GDPError: gdp itself refuses the network, which is no failure of the cut.
    """
    # in the network's own type, then in float64
    with constants_randomized(model):
        outcome, exact, tolerable = _errors_as_failures(attempt)
        if exact or isinstance(outcome, DryRunFailure):
            return outcome
        try:
            with in_float64(model):
                precise, exact, _ = _errors_as_failures(attempt)
        except GDPError:
            exact = False
        else:
            if isinstance(precise, DryRun):  # else forward insists on its own type
                outcome, tolerable = precise, exact

    # a difference that float64 could not decide on is let pass if it is tolerable
    if exact or tolerable:
        return outcome
    return DryRunFailure(
        f"the cut network differs from the gated one by {outcome.difference.absolute:.2e} (relative "
        f"{outcome.difference.relative:.2e})"
    )


def cut_and_compare(model: nn.Module, graph: ChannelGraph, names: list[str]) -> Outcome:
    """Cut some groups, and compare with the network whose channels are closed instead; put everything back.

    This takes five forward passes: some channels cut, and closed; all but one channel cut, and closed; and one in train
    mode. Cut networks run first, since an error, if they raise one, then costs few passes.

    Args:
        model: the network.
        graph: its channel groups, and its FLOPs as fvcore counts them before the cut.
        names: of the groups that are cut.
    """
    some, most = _sample_closed(graph, names)
    inputs = randomize_inputs(graph.inputs, only_constant=True)
    whole, smaller, smallest = CutPlan(graph.shapes, {}), CutPlan.of(graph, some), CutPlan.of(graph, most)
    with ExitStack() as undo:
        # some channels cut; in the network that is left, all but one closed
        undo.callback(cut(model, smaller))
        with mean_activations(model, graph, smaller, smaller) as some_cut:
            flops_some, actual = count_and_run(model, inputs)
        with (
            zero_closed_inputs(model, graph, smaller, most),
            mean_activations(model, graph, smaller, smallest) as most_closed,
        ):
            expected = run_forward(model, inputs)
        undo.close()

        # all but one cut; an error in train mode counts only if the whole network raises none
        undo.callback(cut(model, smallest))
        with mean_activations(model, graph, smallest, smallest) as most_cut:
            flops, outputs = count_and_run(model, inputs)
        failure, parameters = _train_failure(model, graph), count_parameters(model)
        undo.close()
        if failure is not None and _train_failure(model, graph) is None:
            return failure, False, False

        # some channels closed, by gates
        gates = insert_gates(model, graph)
        undo.callback(gates.withdraw)
        gates.close_all(some)
        with mean_activations(model, graph, whole, smaller) as some_closed:
            expected += run_forward(model, inputs)

    # what fvcore counts beyond the trace is a constant: it lies in operators unknown to gdp, which are left alone
    for counted, channels in ((flops_some, some), (flops, most)):
        predicted = graph.flops.count(_open_counts(graph, channels))
        if counted != predicted:
            reason = f"fvcore counts {counted:,} FLOPs in a cut network where {predicted:,} were expected"
            return DryRunFailure(reason), False, False

    # compare outputs and activations
    actual = outputs + actual
    for closed, was_cut in ((most_closed, most_cut), (some_closed, some_cut)):
        if [n for n, _ in closed] == [n for n, _ in was_cut]:  # else what torch.compile made runs no hooks
            expected, actual = expected + [v for _, v in closed], actual + [v for _, v in was_cut]
    return _compared(expected, actual, smallest, flops, parameters)


def _compared(
    expected: list[Tensor], actual: list[Tensor], plan: CutPlan, flops: int, parameters: int
) -> tuple[DryRun, bool, bool]:
    """Return the outcome of a cut network that runs.

    Args:
        expected: outputs of the network whose channels are closed.
        actual: outputs of the cut network.
        plan: by which it was cut.
        flops: of the cut network, counted by fvcore.
        parameters: their number in the cut network.
    """
    difference = Difference.between(expected, actual)
    run = DryRun(difference, plan, flops, parameters)
    return run, difference.is_exact(expected), difference.is_tolerable(expected)


def _open_counts(graph: ChannelGraph, closed: ClosedChannels) -> Tensor:
    """Return the open channels per group, shape (groups,).

    Args:
        graph: the channel groups.
        closed: indices of the closed channels of every group that has some.
    """
    return torch.tensor([group.size - len(closed.get(group.name, ())) for group in graph.groups])


def cut_branches_and_compare(model: nn.Module, graph: ChannelGraph) -> Outcome:
    """Remove all residual branches, leave one channel in every other group, and compare; put everything back.

    The network to compare with has weights of zero where closed channels are read.

    Args:
        model: the network.
        graph: its channel groups, and the branches.
    """
    # cut the network, and run it
    closed = _sample_closed(graph, [g.name for g in graph.groups])[1]
    for branch in graph.blocks:
        closed |= {name: list(range(graph[name].size)) for name in branch.groups}
    inputs, plan = randomize_inputs(graph.inputs, only_constant=True), CutPlan.of(graph, closed)
    with ExitStack() as undo:
        undo.callback(cut(model, plan))
        flops, outputs = count_and_run(model, inputs)
        failure, parameters = _train_failure(model, graph), count_parameters(model)
    if failure is not None and _train_failure(model, graph) is None:
        return failure, False, False

    # close the same channels instead, and compare
    with zero_closed_inputs(model, graph, CutPlan(graph.shapes, {}), closed):
        expected = run_forward(model, inputs)
    predicted = graph.flops.count(WidthConstraints.of(graph).smallest)
    if flops != predicted:
        reason = f"fvcore counts {flops:,} FLOPs without it where {predicted:,} were expected"
        return DryRunFailure(reason), False, False
    return _compared(expected, outputs, plan, flops, parameters)


def _errors_as_failures(attempt: Callable[[], Outcome]) -> Outcome:
    """Return what an attempt returns; return errors of the network's `forward` as failures.

    Args:
        attempt: cuts the network, compares, and puts everything back.

    Raises:
        GDPError: gdp itself raised it, with no line of the network's source in it.
    """
    try:
        return attempt()
    except Exception as error:
        cause = error.__cause__ or error
        line = source_line(cause)
        if isinstance(error, GDPError) and not line:
            raise
        return DryRunFailure(first_line(cause), line), False, False


def _sample_closed(graph: ChannelGraph, names: list[str]) -> tuple[ClosedChannels, ClosedChannels]:
    """Return channels to close: a random share of at least half of every group, and all but one of every group.

    Args:
        graph: the channel groups.
        names: of the groups.
    """
    generator = torch.Generator().manual_seed(0)
    some, most = {}, {}
    for name in names:
        size = graph[name].size
        order = torch.randperm(size, generator=generator).tolist()
        some[name] = order[: int(torch.randint((size + 1) // 2, size, (1,), generator=generator))]
        most[name] = order[: size - 1]
    return some, most


def _train_failure(model: nn.Module, graph: ChannelGraph) -> DryRunFailure | None:
    """Return what a forward pass in train mode raises, or None; heads that exist there only have to follow a cut, too.

    Args:
        model: the network, cut or not.
        graph: with the example input.
    """
    has_norm = any(isinstance(m, NORM) for m in model.modules())  # in train mode it refuses single values per channel
    try:
        run_forward(model, double_batch(graph.inputs) if has_norm else graph.inputs, training=True)
        return None
    except Exception as error:  # forward may raise anything
        return DryRunFailure(f"in train mode: {first_line(error)}", source_line(error))
