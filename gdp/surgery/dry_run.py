"""A trial cut: cut channels, compare with the network whose channels are closed, and put everything back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph, CutPlan
from gdp.selection import WidthConstraints
from gdp.surgery.cut import cut
from gdp.utils import (
    NORM,
    Difference,
    count_and_run,
    count_parameters,
    double_batch,
    first_line,
    get_module,
    in_float64,
    named_tensors,
    randomize_inputs,
    run_forward,
    source_line,
)

ClosedChannels = dict[str, list[int]]  # group -> closed channels


@dataclass(frozen=True)
class DryRun:
    """A network cut down to one channel per group: it runs, and computes what the gated one does."""

    difference: Difference
    plan: CutPlan
    flops: int  # by fvcore
    parameters: int


@dataclass(frozen=True)
class DryRunFailure:
    """Why a trial cut does not work: the error, and the line of the network's source that raised it, if one did."""

    reason: str
    line: str = ""


Outcome = tuple[
    DryRun | DryRunFailure, bool, bool
]  # what came of it; whether its difference is exact; whether it's tolerable


def dry_run(model: nn.Module, attempt: Callable[[], Outcome]) -> DryRun | DryRunFailure:
    """Cut on trial, float64 being asked where the network's own type can't decide."""
    with _constants_randomized(model):
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
    if exact or tolerable:
        return outcome
    return DryRunFailure(
        f"the cut network differs from the gated one by {outcome.difference.absolute:.2e} (relative "
        f"{outcome.difference.relative:.2e})"
    )


def cut_and_compare(model: nn.Module, graph: ChannelGraph, names: list[str]) -> Outcome:
    """Five forward passes: a random share cut, and closed; all but one channel cut, and closed; and one in train mode.

    Cut ones come first, since what they raise, they raise cheaply.
    """
    few, most = _sample_closed(graph, names)
    inputs = randomize_inputs(graph.inputs, only_constant=True)
    whole, smaller, smallest = CutPlan(graph.shapes, {}), CutPlan.of(graph, few), CutPlan.of(graph, most)
    with ExitStack() as undo:
        undo.callback(cut(model, smaller))
        with _mean_activations(model, graph, smaller, smaller) as few_cut:
            flops_few, actual = count_and_run(model, inputs)
        with (
            _zero_closed_inputs(model, graph, smaller, most),
            _mean_activations(model, graph, smaller, smallest) as most_closed,
        ):
            expected = run_forward(model, inputs)
        undo.close()
        undo.callback(cut(model, smallest))
        with _mean_activations(model, graph, smallest, smallest) as most_cut:
            flops, outputs = count_and_run(model, inputs)
        failure, parameters = _train_failure(model, graph), count_parameters(model)
        undo.close()
        if failure is not None and _train_failure(model, graph) is None:
            return failure, False, False
        gates = insert_gates(model, graph)
        undo.callback(gates.withdraw)
        gates.close_all(few)
        with _mean_activations(model, graph, whole, smaller) as few_closed:
            expected += run_forward(model, inputs)
    beyond = [
        flops_few - graph.flops.count(_opened(graph, few)),
        flops - graph.flops.count(_opened(graph, most)),
    ]
    if beyond[0] != beyond[1]:  # a constant lies in unknown operators, which are left alone; this is none
        reason = f"fvcore counts {beyond[0] - beyond[1]:+,} FLOPs beside those that were expected"
        return DryRunFailure(reason), False, False
    actual = outputs + actual
    for closed_levels, cut_levels in ((most_closed, most_cut), (few_closed, few_cut)):
        if [n for n, _ in closed_levels] == [n for n, _ in cut_levels]:  # else what torch.compile made runs no hooks
            expected, actual = (
                outs + [v for _, v in found] for outs, found in ((expected, closed_levels), (actual, cut_levels))
            )
    difference = Difference.between(expected, actual)
    return (
        DryRun(difference, smallest, flops, parameters),
        difference.is_exact(expected),
        difference.is_tolerable(expected),
    )


def _opened(graph: ChannelGraph, closed: ClosedChannels) -> Tensor:
    """Open channels per group, shape (groups,)."""
    return torch.tensor([group.size - len(closed.get(group.name, ())) for group in graph.groups])


@contextmanager
def _mean_activations(
    model: nn.Module, graph: ChannelGraph, has: CutPlan, wanted: CutPlan
) -> Iterator[list[tuple[str, Tensor]]]:
    """Mean magnitude of every channel that each reader puts out, in the order of calls.

    They show a wrong cut where the outputs can't, since all that is left behind it is dead (a ReLU below zero).

    Args:
        has: the plan by which the network is cut now.
        wanted: the plan whose channels are to be reported.
    """
    found: list[tuple[str, Tensor]] = []

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        rows = range(graph.shapes[name][0])
        now, then = (plan.keep.get(name, {}).get(0, rows) for plan in (has, wanted))
        place = {row: i for i, row in enumerate(now)}
        dim = output.dim() - 1 - (0 if isinstance(layer, nn.Linear) else len(graph.shapes[name]) - 2)
        level = output.detach().abs().movedim(dim, 0).reshape(len(now), -1).mean(1)
        found.append((name, level[[place[row] for row in then]]))

    undo = ExitStack()
    for name in dict.fromkeys(axis.tensor for group in graph.groups for axis in group.reads):
        layer = get_module(model, name.rpartition(".")[0])
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and name.endswith("weight"):
            hook = layer.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))
            undo.callback(hook.remove)
    with undo:
        yield found


def cut_branches_and_compare(model: nn.Module, graph: ChannelGraph) -> Outcome:
    """All blocks gone, and one channel left in every other group: the cut network against weights of zero."""
    closed = _sample_closed(graph, [g.name for g in graph.groups])[1]
    for block in graph.blocks:
        closed |= {name: list(range(graph[name].size)) for name in block.groups}
    inputs, plan = randomize_inputs(graph.inputs, only_constant=True), CutPlan.of(graph, closed)
    with ExitStack() as undo:
        undo.callback(cut(model, plan))
        flops, outputs = count_and_run(model, inputs)
        failure, parameters = _train_failure(model, graph), count_parameters(model)
    if failure is not None and _train_failure(model, graph) is None:
        return failure, False, False
    with _zero_closed_inputs(model, graph, CutPlan(graph.shapes, {}), closed):
        expected = run_forward(model, inputs)
    predicted = graph.flops.count(WidthConstraints.of(graph).smallest)
    if flops != predicted:
        return (
            DryRunFailure(f"fvcore counts {flops:,} FLOPs without it where {predicted:,} were expected"),
            False,
            False,
        )
    difference = Difference.between(expected, outputs)
    return DryRun(difference, plan, flops, parameters), difference.is_exact(expected), difference.is_tolerable(expected)


def _errors_as_failures(attempt: Callable[[], Outcome]) -> Outcome:
    """What the forward of a cut network raises is an outcome, too; what gdp itself raises is not."""
    try:
        return attempt()
    except Exception as error:
        cause = error.__cause__ or error
        line = source_line(cause)
        if isinstance(error, GDPError) and not line:
            raise
        return DryRunFailure(first_line(cause), line), False, False


def _sample_closed(graph: ChannelGraph, names: list[str]) -> tuple[ClosedChannels, ClosedChannels]:
    """A random share of at least half of every group, and all but one channel."""
    generator = torch.Generator().manual_seed(0)
    few, most = {}, {}
    for name in names:
        size = graph[name].size
        order = torch.randperm(size, generator=generator).tolist()
        few[name] = order[: int(torch.randint((size + 1) // 2, size, (1,), generator=generator))]
        most[name] = order[: size - 1]
    return few, most


@contextmanager
def _zero_closed_inputs(model: nn.Module, graph: ChannelGraph, plan: CutPlan, closed: ClosedChannels) -> Iterator[None]:
    """Zeros where the weights of a network that was cut by `plan` read closed channels: gates that are 0."""
    scale: dict[tuple[str, int], Tensor] = {}
    for name, indices in closed.items():
        for axis in graph[name].reads:
            size = graph.shapes[axis.tensor][axis.dim]
            scale.setdefault((axis.tensor, axis.dim), torch.ones(size))[axis.index[indices]] = 0.0
    tensors = named_tensors(model)
    with ExitStack() as undo:
        for (tensor, dim), factor in scale.items():
            weight = tensors[tensor]
            undo.callback(setattr, weight, "data", weight.data)
            kept = plan.keep.get(tensor, {}).get(dim)
            factor = factor if kept is None else factor[list(kept)]
            weight.data = weight.data * factor.to(weight).view([-1 if d == dim else 1 for d in range(weight.dim())])
        yield


def _is_constant(data: Tensor) -> bool:
    few = data.flatten()[:16]  # nearly always enough to see that it is not
    return bool((few == few[0]).all()) and bool((data == few[0]).all())


def _train_failure(model: nn.Module, graph: ChannelGraph) -> DryRunFailure | None:
    """What a forward pass in train mode raises, if it raises: heads that exist there only have to follow a cut, too."""
    single = any(isinstance(m, NORM) for m in model.modules())  # refuses single values
    try:
        run_forward(model, double_batch(graph.inputs) if single else graph.inputs, training=True)
        return None
    except Exception as error:  # forward may raise anything
        return DryRunFailure(f"in train mode: {first_line(error)}", source_line(error))


@contextmanager
def _constants_randomized(model: nn.Module) -> Iterator[None]:
    """Random numbers in place of constant weights and statistics: a scale of zero would hide what is behind it."""
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as undo:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1:
                undo.callback(setattr, tensor, "data", tensor.data)
                if _is_constant(tensor.data):
                    tensor.data = (torch.rand(tensor.shape, generator=generator) + 0.5).to(tensor)
        yield
