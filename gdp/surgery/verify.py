"""Verify a change of a network: it computes what it did before, or the change is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.graph import ChannelGraph
from gdp.surgery.entries import Undo
from gdp.surgery.verdict import Compared, judge
from gdp.utils import Difference, Inputs, described, randomize_inputs, run_forward

Change = Callable[[Iterable[Optimizer]], Undo]  # changes the network and the state of optimizers, returns the undoing


def change_and_verify(
    model: nn.Module, graph: ChannelGraph, change: Change, optimizers: Iterable[Optimizer] = ()
) -> tuple[Difference, Undo]:
    """Make a change, and return how far the network's outputs moved, and what puts everything back.

    The change is made on trial first, without optimizers, and judged as the dry run before training is.

    Args:
        model: the network.
        graph: with the example input; outputs are compared on it, and on random numbers of its shapes.
        change: cuts the network, and the state of the optimizers it is given.
        optimizers: given to `change`.

    Raises:
        GDPError: the network does not run, changed or not, or the changed one computes something else; it is as it was.
    """

    def compare() -> Compared:
        """Make the change, run the network before and after, and undo it."""
        expected = _outputs(model, graph.inputs, "can't run on the example input, before anything is cut", "")
        undo = change(())
        try:
            hint = "a size is probably written into it. Leave the layers around it alone: ignore=[...]."
            return Compared((expected, _outputs(model, graph.inputs, "can't follow the cut", hint)))
        finally:
            undo()

    verdict = judge(model, compare, graph.selects)
    if not verdict.accepted:
        raise GDPError(
            f"The cut {type(model).__name__} differs from the gated one by {verdict}, which is more than rounding. "
            "Nothing was changed. Leave the layers that differ alone with ignore=[...], and please report the network."
        )
    return verdict.difference, change(tuple(optimizers))


def _outputs(model: nn.Module, inputs: Inputs, failing: str, hint: str) -> list[Tensor]:
    """Return the outputs of the network in eval mode, on an example input and on random numbers of its shapes.

    Args:
        model: the network.
        inputs: an example input.
        failing: says in an error that the network does not run.
        hint: ends the message of an error.

    Raises:
        GDPError: the network does not run.
    """
    try:
        return run_forward(model, inputs) + run_forward(model, randomize_inputs(inputs))
    except Exception as error:  # forward may raise anything
        raise GDPError(
            f"{type(model).__name__}.forward {failing} ({described(error)}){'; ' + hint if hint else '.'} Nothing was "
            "changed."
        ) from error
