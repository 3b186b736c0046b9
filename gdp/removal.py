"""remove(): fold what is open, cut what is closed, compare, and put everything back if it is not exact."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.compare import Difference, in_double
from gdp.errors import GDPError
from gdp.export import first_line, randomized, run, source_line
from gdp.flops import count_flops, count_parameters
from gdp.gates import Gates
from gdp.graph import ChannelGraph
from gdp.plan import Plan
from gdp.report import Report
from gdp.store import recall, remember
from gdp.surgery import Undo, cut


def fold(gates: Gates) -> Undo:
    """Multiply the gates into the weights behind them and take them away; return what puts them back."""
    was: dict[int, tuple[nn.Parameter, Tensor]] = {}
    folded: set[tuple[int, int]] = set()
    for reader in gates.readers:
        weight = reader.weight
        if (id(weight), reader.dim) not in folded:  # tied weights are folded once
            folded.add((id(weight), reader.dim))
            was.setdefault(id(weight), (weight, weight.data))
            weight.data = weight.data * reader.gate.to(weight.dtype)
    gates.withdraw()

    def put_back() -> None:
        for weight, data in was.values():
            weight.data = data
        gates.put_back()

    return put_back


def _probe(model: nn.Module, graph: ChannelGraph) -> list[Tensor]:
    """Outputs on the example input, and on random numbers of its shapes."""
    return run(model, graph.inputs) + run(model, randomized(graph.inputs))


def _fold_and_cut(
    model: nn.Module, graph: ChannelGraph, gates: Gates, plan: Plan, optimizers: Iterable[Optimizer]
) -> tuple[Difference, list[Tensor], Undo]:
    expected = _probe(model, graph)
    unfold = fold(gates)
    uncut: Undo = lambda: None  # noqa: E731

    def undo() -> None:
        uncut()
        unfold()

    try:
        uncut = cut(model, plan, optimizers)
        return Difference.between(expected, _probe(model, graph)), expected, undo
    except Exception as error:
        undo()
        line = source_line(error)
        raise GDPError(
            f"{type(model).__name__}.forward can't follow the cut ({type(error).__name__}: {first_line(error)}"
            f"{f' at {line}' if line else ''}); a size is probably written into it. Nothing was changed. Leave the "
            "layers around it alone: ignore=[...]."
        ) from error


def apply(
    model: nn.Module, graph: ChannelGraph, gates: Gates, optimizers: Iterable[Optimizer] = ()
) -> tuple[Difference, Plan, Undo]:
    """Fold and cut, and say how far the network's outputs moved; the last result puts everything back.

    Where the network's own type can't tell a wrong cut from rounding, float64 decides.

    Raises:
        GDPError: the cut network does not run, or computes something else; it is put back before.
    """
    plan = Plan.of(graph, gates.closed)
    difference, expected, undo = _fold_and_cut(model, graph, gates, plan, optimizers)
    if not difference.exact(expected):
        undo()
        try:
            with in_double(model):
                precise, outputs, undo_double = _fold_and_cut(model, graph, gates, plan, ())
                undo_double()
            exact = precise.exact(outputs)
        except GDPError:  # forward insists on its own type
            precise, exact = difference, difference.tolerable(expected)
        if not exact:
            raise GDPError(
                f"The cut {type(model).__name__} differs from the gated one by {precise.absolute:.2e} (relative "
                f"{precise.relative:.2e}), which is more than rounding. Nothing was changed. Leave the layers that "
                "differ alone with ignore=[...], and please report the network."
            )
        difference = precise
        _, _, undo = _fold_and_cut(model, graph, gates, plan, optimizers)
    return difference, plan, undo


def remove(model: nn.Module, graph: ChannelGraph, gates: Gates, optimizers: Iterable[Optimizer] = ()) -> Report:
    """Fold the open gates into the convs behind them, cut the closed channels, in place, and return the record.

    Afterwards the network is plain: the user's modules with smaller tensors. Parameters keep their identity, and state
    of `optimizers` is cut along.

    Raises:
        GDPError: the cut network differs from the gated one by more than rounding, or does not run. Network, gates
            and optimizers are then as they were.

    >>> import gdp, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = gdp.trace(net, torch.randn(1, 3, 8, 8))
    >>> gates = gdp.insert_gates(net, graph)
    >>> gates.close("0", [1, 2, 5])
    >>> report = gdp.remove(net, graph, gates)
    >>> net[2].in_channels, report.flops_after == report.flops_predicted
    (5, True)
    """
    if gates.model is not model or [g.name for g in gates.graph.groups] != [g.name for g in graph.groups]:
        raise GDPError(
            "These gates belong to another network or graph; pass those that insert_gates(model, graph) gave."
        )
    if not gates.inserted:
        raise GDPError(
            f"The gates are no longer in this {type(model).__name__}: it was cut already, or they were withdrawn."
        )
    flops_before, params_before = count_flops(model, graph.inputs), count_parameters(model)
    opened = gates.opened
    predicted = graph.counted(flops_before).flops.count(opened)
    difference, plan, undo = apply(model, graph, gates, optimizers)
    try:
        flops_after = count_flops(model, graph.inputs)
    except GDPError:
        undo()
        raise
    if flops_after != predicted:
        warnings.warn(
            f"fvcore counts {flops_after:,} FLOPs where gdp predicted {predicted:,}: an operator of "
            f"{type(model).__name__} is counted in a way gdp does not know. The removal itself is exact.",
            stacklevel=2,
        )
    earlier = recall(model)
    report = Report(
        flops_before=flops_before,
        flops_after=flops_after,
        flops_predicted=predicted,
        params_before=params_before,
        params_after=count_parameters(model),
        groups=tuple((g.name, kept, g.size) for g, kept in zip(graph.groups, opened.tolist(), strict=True)),
        frozen=graph.frozen,
        max_abs=difference.absolute,
        max_rel=difference.relative,
        blocks=tuple(block.name for block in plan.blocks),
        plan=plan if earlier is None else plan.after(earlier.plan),
    )
    remember(model, report)
    return report
