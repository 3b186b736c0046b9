"""Cut channels whose gates are closed out of the network while it trains."""

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
from gdp.surgery.cut import cut
from gdp.surgery.entries import Undo
from gdp.surgery.optimizers import check_optimizers
from gdp.surgery.verify import change_and_verify
from gdp.utils import named_tensors


def shrink(gates: Gates, optimizers: Iterable[Optimizer] = ()) -> Undo | None:
    """Cut the channels that are closed by now, in place; the gates of all other channels stay.

    A closed channel adds nothing to outputs and gradients, so training goes on as it would have, up to rounding.
    Parameters keep their identity. Where all channels of a group are closed, since its residual branch is to be
    removed, one channel stays until then.

    Args:
        gates: of the network.
        optimizers: whose state is cut along.

    Returns:
        What puts everything back; None if nothing is closed that was not cut before.

    Raises:
        GDPError: the cut network differs by more than rounding or does not run, or an optimizer's state can't be cut.
            Everything is then as it was.
    """
    removed = _removable_channels(gates)
    if torch.equal(removed, gates.removed):
        return None
    difference, undo = change_and_verify(gates.model, gates.graph, partial(cut_channels, gates, removed), optimizers)
    gates.difference = gates.difference.maximum(difference)
    return undo


def cut_channels(gates: Gates, removed: Tensor, optimizers: Iterable[Optimizer] = ()) -> Undo:
    """Cut channels out of weights, gates and copies of the network; return what undoes it.

    Args:
        gates: of the network.
        removed: one bool per channel of all groups, channels that have been cut already included.
        optimizers: whose state is cut along.
    """
    with ExitStack() as undo:
        undo.callback(cut_network_and_copies(gates, plan_for(gates, removed), optimizers))
        undo.callback(gates.remove_channels(removed))
        return undo.pop_all().close


def cut_network_and_copies(gates: Gates, plan: CutPlan, optimizers: Iterable[Optimizer] = ()) -> Undo:
    """Cut the network and its copies by a plan; return what undoes it.

    Args:
        gates: of the network; they know the copies, and are not cut.
        plan: for the network as it is now.
        optimizers: whose state is cut along.
    """
    with ExitStack() as undo:
        undo.callback(cut(gates.model, plan, optimizers))
        for part, copy in gates.copies:
            undo.callback(cut(copy, plan.for_submodule(part)))
        return undo.pop_all().close


def plan_for(gates: Gates, removed: Tensor) -> CutPlan:
    """Return the plan for cutting channels out of the network as it is now.

    Args:
        gates: of the network; `gates.removed` has been cut already.
        removed: one bool per channel of all groups, channels that have been cut already included.
    """
    return CutPlan.of(gates.graph, gates.indices(removed)).relative_to(
        CutPlan.of(gates.graph, gates.indices(gates.removed))
    )


def check_optimizers_cuttable(gates: Gates, optimizers: Iterable[Optimizer]) -> None:
    """Check, before anything is cut, that the state of optimizers can be cut along with the gated network.

    Args:
        gates: of the network.
        optimizers: whose state is checked.

    Raises:
        GDPError: an optimizer keeps state of another shape than its parameter.
    """
    names = {axis.tensor for group in gates.graph.groups for axis in group.tensors}
    check_optimizers({name: t for name, t in named_tensors(gates.model).items() if name in names}, optimizers)


def cuttable_optimizers(gates: Gates, optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Return the optimizers whose state can be cut.

    Args:
        gates: of the network.
        optimizers: whose state is checked.
    """
    found = []
    for optimizer in optimizers:
        with suppress(GDPError):
            check_optimizers_cuttable(gates, [optimizer])
            found.append(optimizer)
    return found


def _removable_channels(gates: Gates) -> Tensor:
    """Return the closed channels, leaving out one that has not been cut yet where a group has no open channel.

    Args:
        gates: of the network.

    Returns:
        One bool per channel of all groups.
    """
    closed = (gates.gate_param == 0).cpu()
    for span in gates.spans.values():
        if bool(closed[span].all()):
            last = torch.nonzero(~gates.removed[span]).flatten()[0]
            closed[span.start + int(last)] = False
    return closed
