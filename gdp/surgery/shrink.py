"""Cutting on the way: channels whose gates are closed for good leave the network while it trains."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.gates import Gates
from gdp.graph import CutPlan
from gdp.surgery.cut import Undo, check_optimizers, cut
from gdp.surgery.verify import change_and_verify
from gdp.utils import named_tensors


def shrink(gates: Gates, optimizers: Iterable[Optimizer] = ()) -> Undo | None:
    """Cut what is closed by now, in place; the gates of all other channels stay. Return what puts it back.

    None if nothing is closed that was not cut before. A closed channel adds nothing to outputs and gradients, so
    training goes on as it would have, up to rounding. Parameters keep their identity; state of `optimizers` is cut
    along. Where all channels of a group are closed, because its block goes, one stays until the block is removed.

    Raises:
        GDPError: the cut network differs by more than rounding or does not run, or an optimizer's state can't be cut.
            Everything is then as it was.
    """
    gone = _removable_channels(gates)
    if torch.equal(gone, gates.removed):
        return None
    difference, undo = change_and_verify(
        gates.model, gates.graph.inputs, partial(cut_channels, gates, gone), optimizers
    )
    gates.difference = gates.difference.maximum(difference)
    return undo


def cut_channels(gates: Gates, gone: Tensor, optimizers: Iterable[Optimizer] = ()) -> Undo:
    """Cut these channels (one bool per channel of all groups) out of weights, gates and copies; return the undoing."""
    with ExitStack() as undo:
        undo.callback(cut_network_and_copies(gates, plan_for(gates, gone), optimizers))
        undo.callback(gates.remove_channels(gone))
        return undo.pop_all().close


def cut_network_and_copies(gates: Gates, plan: CutPlan, optimizers: Iterable[Optimizer] = ()) -> Undo:
    """Cut the network and its copies by a plan; return what undoes it."""
    with ExitStack() as undo:
        undo.callback(cut(gates.model, plan, optimizers))
        for part, copy in gates.copies:
            undo.callback(cut(copy, plan.for_submodule(part)))
        return undo.pop_all().close


def plan_for(gates: Gates, gone: Tensor) -> CutPlan:
    """The plan for cutting these channels, where some are cut already."""
    return CutPlan.of(gates.graph, gates.indices(gone)).relative_to(
        CutPlan.of(gates.graph, gates.indices(gates.removed))
    )


def check_optimizers_cuttable(gates: Gates, optimizers: Iterable[Optimizer]) -> None:
    """Say early that the state of an optimizer can't be cut.

    Raises:
        GDPError: it can't.
    """
    names = {axis.tensor for group in gates.graph.groups for axis in group.tensors}
    check_optimizers({name: t for name, t in named_tensors(gates.model).items() if name in names}, optimizers)


def cuttable_optimizers(gates: Gates, optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """The optimizers whose state can be cut."""
    found = []
    for optimizer in optimizers:
        with suppress(GDPError):
            check_optimizers_cuttable(gates, [optimizer])
            found.append(optimizer)
    return found


def _removable_channels(gates: Gates) -> Tensor:
    """The closed channels; without one that has not been cut yet where a group has no open channel."""
    closed = (gates.gate_param == 0).cpu()
    for span in gates.spans.values():
        if bool(closed[span].all()):
            last = torch.nonzero(~gates.removed[span]).flatten()[0]
            closed[span.start + int(last)] = False
    return closed
