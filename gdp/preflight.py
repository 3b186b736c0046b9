"""Preflight: does cutting work on this network? Groups that its own `forward` can't follow are left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gdp.compare import Difference, in_double
from gdp.errors import GDPError
from gdp.export import first_line, randomized, run, source_line, train_inputs
from gdp.flops import count_flops, count_parameters, counted_run
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph
from gdp.plan import Plan
from gdp.report import Report
from gdp.surgery import cut
from gdp.trace import trace

Closing = dict[str, list[int]]  # group -> closed channels


@dataclass(frozen=True)
class Trial:
    """A network cut down to one channel per group: it runs, and computes what the gated one does."""

    difference: Difference
    plan: Plan
    flops: int  # by fvcore
    parameters: int


@dataclass(frozen=True)
class Failure:
    """Why a trial cut does not work: the error, and the line of the network's source that raised it, if one did."""

    reason: str
    line: str = ""


def check(model: nn.Module, example_inputs: Any, ignore: Sequence[str | type] = ()) -> Report:
    """Cut every group of a network on trial, put everything back, and say what can go and what must stay, and why.

    This is what `GDPCallback` does before the first training step. The report is that of the smallest network: one
    channel left in every group. `report.remaining` is the lowest `target_flops`.

    Args:
        model: any `nn.Module` that torch.export can follow; it is left as it was, mode and RNG included.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them.
        ignore: layers whose inputs and outputs keep their sizes: module names, globs over them, or module types.

    Raises:
        GDPError: the network can't be exported or counted, or a pattern of `ignore` matches no module.

    >>> report = check(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(1, 3, 8, 8))
    >>> report.groups, f"{report.remaining:.3f}"
    ((('0', 1, 8),), '0.125')
    """
    graph, trial = examine(model, trained_readers_only(model, trace(model, example_inputs, ignore)))
    parameters = count_parameters(model)
    return Report(
        flops_before=graph.flops.dense,
        flops_after=trial.flops if trial else graph.flops.dense,
        flops_predicted=graph.flops.count(torch.ones_like(graph.flops.sizes)),
        params_before=parameters,
        params_after=trial.parameters if trial else parameters,
        groups=tuple((g.name, 1, g.size) for g in graph.groups),
        frozen=graph.frozen,
        max_abs=trial.difference.absolute if trial else 0.0,
        max_rel=trial.difference.relative if trial else 0.0,
        plan=trial.plan if trial else Plan(graph.shapes, {}),
        trial=True,
    )


def preflight(model: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Cut every group on trial, compare, and put everything back; return the graph without guilty groups.

    A literal size in `forward` (`x.view(b, 64, -1)`) can't be seen in the trace, but it fails here, before the first
    training step. Guilty groups are found by bisection and frozen with the error as the reason. FLOPs that fvcore
    counts in operators unknown to gdp are part of the returned graph's.
    """
    return examine(model, graph)[0]


def examine(model: nn.Module, graph: ChannelGraph) -> tuple[ChannelGraph, Trial | None]:
    """`preflight`, and the trial that worked in the end; None if no group is left."""
    while graph.groups:
        names = [g.name for g in graph.groups]
        outcome = _trial(model, graph, names)
        if isinstance(outcome, Trial):
            beyond = outcome.flops - graph.flops.count(torch.ones_like(graph.flops.sizes))
            return graph.counted(graph.flops.dense + beyond), outcome
        for name, reason in _guilty(model, graph, names, outcome).items():
            graph = graph.freeze([name], reason)
    return graph.counted(count_flops(model, graph.inputs)), None


def _guilty(model: nn.Module, graph: ChannelGraph, names: list[str], failure: Failure) -> dict[str, str]:
    """The groups of a failing trial on which it fails already, with the reason."""
    if len(names) == 1:
        return {names[0]: f"forward can't follow a cut: {_explained(failure, graph[names[0]].lines)}"}
    found: dict[str, str] = {}
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        outcome = _trial(model, graph, half)
        if isinstance(outcome, Failure):
            found |= _guilty(model, graph, half, outcome)
    together = f"forward can't follow a cut of these groups together: {_explained(failure, ())}"
    return found or dict.fromkeys(names, together)


def _explained(failure: Failure, lines: tuple[str, ...]) -> str:
    """The reason with the lines of source where a size is written, as torch.export and the error know them."""
    where = f", raised at {failure.line}" if failure.line else ""
    written = [line for line in lines if line != failure.line]
    return failure.reason + where + (f"; a size may be written at {' or at '.join(written[:2])}" if written else "")


def _trial(model: nn.Module, graph: ChannelGraph, names: list[str]) -> Trial | Failure:
    """Cut these groups on trial, float64 being asked where the network's own type can't decide."""
    with _nothing_hidden(model):
        outcome, exact, tolerable = _attempt(model, graph, names)
        if exact or isinstance(outcome, Failure):
            return outcome
        try:
            with in_double(model):
                precise, exact, _ = _attempt(model, graph, names)
        except GDPError:
            exact = False
        else:
            if isinstance(precise, Trial):  # else forward insists on its own type
                outcome, tolerable = precise, exact
    if exact or tolerable:
        return outcome
    return Failure(
        f"the cut network differs from the gated one by {outcome.difference.absolute:.2e} (relative "
        f"{outcome.difference.relative:.2e})"
    )


def _attempt(model: nn.Module, graph: ChannelGraph, names: list[str]) -> tuple[Trial | Failure, bool, bool]:
    """Five forward passes: a random share cut, and closed; all but one channel cut, and closed; and one in train mode.

    Cut ones come first, since what they raise, they raise cheaply. Returns what came of it, whether the difference is
    exact, and whether it is tolerable.
    """
    few, most = _closings(graph, names)
    inputs = randomized(graph.inputs, only_constant=True)
    undo: list[Callable[[], None]] = []
    try:
        plan = Plan.of(graph, few)
        undo.append(cut(model, plan))
        actual = run(model, inputs)
        with _muted(model, graph, plan, most):
            expected = run(model, inputs)
        undo.pop()()
        plan = Plan.of(graph, most)
        undo.append(cut(model, plan))
        flops, outputs = counted_run(model, inputs)
        failure = _train_failure(model, graph)
        parameters = count_parameters(model)
        undo.pop()()
        if failure is not None and _train_failure(model, graph) is None:
            return failure, False, False
        gates = insert_gates(model, graph)
        undo.append(gates.withdraw)
        for name, closed in few.items():
            gates.close(name, closed)
        expected += run(model, inputs)
    except Exception as error:
        failure = _failed(error)
        if failure is None:
            raise
        return failure, False, False
    finally:
        while undo:
            undo.pop()()
    difference = Difference.between(expected, outputs + actual)
    return Trial(difference, plan, flops, parameters), difference.exact(expected), difference.tolerable(expected)


def _failed(error: Exception) -> Failure | None:
    """What a forward pass of a cut network raised; None if it is gdp itself that failed."""
    cause = error.__cause__ or error
    line = source_line(cause)
    return Failure(first_line(cause), line) if line or not isinstance(error, GDPError) else None


def _closings(graph: ChannelGraph, names: list[str]) -> tuple[Closing, Closing]:
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
def _muted(model: nn.Module, graph: ChannelGraph, plan: Plan, closed: Closing) -> Iterator[None]:
    """Zeros where the weights of a network that was cut by `plan` read closed channels: gates that are 0."""
    scale: dict[tuple[str, int], Tensor] = {}
    for name, indices in closed.items():
        for axis in graph[name].reads:
            size = graph.shapes[axis.tensor][axis.dim]
            scale.setdefault((axis.tensor, axis.dim), torch.ones(size))[axis.index[indices]] = 0.0
    was = []
    try:
        for (tensor, dim), factor in scale.items():
            weight = model.get_parameter(tensor)
            was.append((weight, weight.data))
            kept = plan.keep.get(tensor, {}).get(dim)
            factor = factor if kept is None else factor[list(kept)]
            weight.data = weight.data * factor.to(weight).view([-1 if d == dim else 1 for d in range(weight.dim())])
        yield
    finally:
        for weight, data in reversed(was):
            weight.data = data


def _train_failure(model: nn.Module, graph: ChannelGraph) -> Failure | None:
    """What a forward pass in train mode raises, if it raises: heads that exist there only have to follow a cut, too."""
    try:
        run(model, train_inputs(graph.inputs), training=True)
        return None
    except Exception as error:  # forward may raise anything
        return Failure(f"in train mode: {first_line(error)}", source_line(error))


@contextmanager
def _nothing_hidden(model: nn.Module) -> Iterator[None]:
    """Random numbers in place of constant weights and statistics: a scale of zero would hide what is behind it."""
    generator = torch.Generator().manual_seed(0)
    was = [(t, t.data) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.numel() > 1]
    try:
        for tensor, data in was:
            if bool((data == data.flatten()[0]).all()):
                tensor.data = (torch.rand(data.shape, generator=generator) + 0.5).to(data)
        yield
    finally:
        for tensor, data in was:
            tensor.data = data


def trained_readers_only(network: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """Leave groups alone whose readers are not trained: without gradients nothing is known about their channels."""
    still = {name for name, p in network.named_parameters() if not p.requires_grad}
    for group in graph.groups:
        for axis in group.reads:
            if axis.tensor in still:
                graph = graph.freeze([group.name], f"{axis.tensor}, which reads it, is not trained")
                break
    return graph
