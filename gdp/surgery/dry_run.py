"""Make dry runs: cut channels, compare with the network whose channels are closed, and put everything back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph, CutPlan
from gdp.surgery.activations import mean_activations
from gdp.surgery.cut import cut
from gdp.surgery.temporary_weights import ClosedChannels, constants_randomized, zero_closed_inputs
from gdp.surgery.verdict import Compared, Pair, judge
from gdp.utils import (
    NORM,
    Difference,
    count_and_run,
    count_parameters,
    double_batch,
    first_line,
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


@dataclass(frozen=True)
class Trial:
    """A cut network that runs, and what it has computed.

    Attributes:
        compared: with the network whose channels are closed.
        plan: by which it was cut.
        flops: counted by fvcore.
        parameters: their number.
    """

    compared: Compared
    plan: CutPlan
    flops: int
    parameters: int


def dry_run(
    model: nn.Module, graph: ChannelGraph, attempt: Callable[[], Trial | DryRunFailure]
) -> DryRun | DryRunFailure:
    """Make a dry run, and judge it as the removal after training is.

    Args:
        model: the network; it is left as it was.
        graph: of the network.
        attempt: cuts the network, compares, and puts everything back.

    Raises:
        GDPError: gdp itself refuses the network, which is no failure of the cut.
    """
    trials: list[Trial] = []

    def compare() -> Compared:
        """Make an attempt, and note it."""
        trial = attempt()
        if isinstance(trial, DryRunFailure):
            raise _FailedError(trial)
        trials.append(trial)
        return trial.compared

    try:
        with constants_randomized(model):
            verdict = judge(model, compare, graph.selects)
    except _FailedError as failed:
        return failed.failure
    except Exception as error:  # forward may raise anything
        cause = error.__cause__ or error
        line = source_line(cause)
        if isinstance(error, GDPError) and not line:
            raise
        return DryRunFailure(first_line(cause), line)
    if not verdict.accepted:
        return DryRunFailure(f"the cut network differs from the gated one by {verdict}")
    return DryRun(verdict.difference, trials[0].plan, trials[0].flops, trials[0].parameters)


class _FailedError(Exception):
    """Carry the failure of an attempt out of a comparison.

    Args:
        failure: of the attempt.
    """

    def __init__(self, failure: DryRunFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def cut_and_compare(model: nn.Module, graph: ChannelGraph, names: list[str]) -> Trial | DryRunFailure:
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
            flops_some, some_actual = count_and_run(model, inputs)
        with (
            zero_closed_inputs(model, graph, smaller, most),
            mean_activations(model, graph, smaller, smallest) as most_closed,
        ):
            most_expected = run_forward(model, inputs)
        undo.close()

        # all but one cut; an error in train mode counts only if the whole network raises none
        undo.callback(cut(model, smallest))
        with mean_activations(model, graph, smallest, smallest) as most_cut:
            flops, most_actual = count_and_run(model, inputs)
        failure, parameters = _train_failure(model, graph), count_parameters(model)
        undo.close()
        if failure is not None and _train_failure(model, graph) is None:
            return failure

        # some channels closed, by gates
        gates = insert_gates(model, graph)
        undo.callback(gates.withdraw)
        gates.close_all(some)
        with mean_activations(model, graph, whole, smaller) as some_closed:
            some_expected = run_forward(model, inputs)

    # what fvcore counts beyond the trace is a constant: it lies in operators unknown to gdp, which are left alone
    for counted, channels in ((flops_some, some), (flops, most)):
        predicted = graph.flops.count(_open_counts(graph, channels))
        if counted != predicted:
            reason = f"fvcore counts {counted:,} FLOPs in a cut network where {predicted:,} were expected"
            return DryRunFailure(reason)

    some_inner, most_inner = _paired(some_closed, some_cut), _paired(most_closed, most_cut)
    degenerate = most_expected + most_inner[0], most_actual + most_inner[1]
    return Trial(Compared((some_expected, some_actual), some_inner, degenerate), smallest, flops, parameters)


def _paired(closed: list[tuple[str, Tensor]], was_cut: list[tuple[str, Tensor]]) -> Pair:
    """Return the activations of two networks in pairs; none where the networks ran different hooks.

    What torch.compile made runs no hooks.

    Args:
        closed: name of a weight and activations, of the network whose channels are closed.
        was_cut: the same of the cut network.
    """
    if [name for name, _ in closed] != [name for name, _ in was_cut]:
        return [], []
    return [value for _, value in closed], [value for _, value in was_cut]


def _open_counts(graph: ChannelGraph, closed: ClosedChannels) -> Tensor:
    """Return the open channels per group, shape (groups,).

    Args:
        graph: the channel groups.
        closed: indices of the closed channels of every group that has some.
    """
    return torch.tensor([group.size - len(closed.get(group.name, ())) for group in graph.groups])


def cut_branches_and_compare(model: nn.Module, graph: ChannelGraph) -> Trial | DryRunFailure:
    """Remove all residual branches, leave one channel in every other group, and compare; put everything back.

    The network to compare with has weights of zero where closed channels are read. Where the network chooses positions,
    it is also compared with some channels left in every other group.

    Args:
        model: the network.
        graph: its channel groups, and the branches.
    """
    some, most = _sample_closed(graph, [g.name for g in graph.groups])
    branches = {name: list(range(graph[name].size)) for branch in graph.blocks for name in branch.groups}
    smallest = _without_branches(model, graph, most | branches)
    if not graph.selects or isinstance(smallest, DryRunFailure):
        return smallest
    larger = _without_branches(model, graph, some | branches)
    if isinstance(larger, DryRunFailure):
        return larger
    compared = Compared(larger.compared.outputs, degenerate=smallest.compared.outputs)
    return replace(smallest, compared=compared)


def _without_branches(model: nn.Module, graph: ChannelGraph, closed: ClosedChannels) -> Trial | DryRunFailure:
    """Cut channels and residual branches, compare, and put everything back.

    Args:
        model: the network.
        graph: its channel groups, and the branches.
        closed: the channels that are cut; all of those in branches.
    """
    # cut the network, and run it
    inputs, plan = randomize_inputs(graph.inputs, only_constant=True), CutPlan.of(graph, closed)
    with ExitStack() as undo:
        undo.callback(cut(model, plan))
        flops, outputs = count_and_run(model, inputs)
        failure, parameters = _train_failure(model, graph), count_parameters(model)
    if failure is not None and _train_failure(model, graph) is None:
        return failure

    # close the same channels instead, and compare
    with zero_closed_inputs(model, graph, CutPlan(graph.shapes, {}), closed):
        expected = run_forward(model, inputs)
    predicted = graph.flops.count(_open_counts(graph, closed))
    if flops != predicted:
        reason = f"fvcore counts {flops:,} FLOPs without it where {predicted:,} were expected"
        return DryRunFailure(reason)
    return Trial(Compared((expected, outputs)), plan, flops, parameters)


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
