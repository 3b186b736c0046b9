"""Verify a change of a network: it computes what it did before, or the change is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.surgery.entries import Undo
from gdp.utils import (
    Difference,
    Inputs,
    finite_weights,
    first_line,
    in_float64,
    randomize_inputs,
    run_forward,
    source_line,
)

Change = Callable[[Iterable[Optimizer]], Undo]  # changes the network and the state of optimizers, returns the undoing


def change_and_verify(
    model: nn.Module, inputs: Inputs, change: Change, optimizers: Iterable[Optimizer] = ()
) -> tuple[Difference, Undo]:
    """Make a change, and return how far the network's outputs moved, and what puts everything back.

    Where the network's own type can't tell a wrong cut from rounding, the change is made and compared in float64, with
    other numbers in place of weights that have become NaN or infinite.

    Args:
        model: the network.
        inputs: an example input; the outputs are compared on it, and on random numbers of its shapes.
        change: cuts the network, and the state of the optimizers it is given.
        optimizers: given to `change`.

    Raises:
        GDPError: the changed network does not run, or computes something else; it is put back before.
    """
    # in the network's own type
    optimizers = tuple(optimizers)
    difference, expected, undo = _changed(model, inputs, change, optimizers)
    if difference.is_exact(expected):
        return difference, undo
    undo()

    # in float64, the change being undone, since it is to be made on the weights as they are
    try:
        with finite_weights(model), in_float64(model):
            precise, outputs, undo_double = _changed(model, inputs, change, ())
            undo_double()
        exact = precise.is_exact(outputs)
    except GDPError:  # forward insists on its own type
        precise, exact = difference, difference.is_tolerable(expected)
    if not exact:
        raise GDPError(
            f"The cut {type(model).__name__} differs from the gated one by {precise.absolute:.2e} (relative "
            f"{precise.relative:.2e}), which is more than rounding. Nothing was changed. Leave the layers that "
            "differ alone with ignore=[...], and please report the network."
        )
    return precise, change(optimizers)


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the outputs of the network in eval mode, on an example input and on random numbers of its shapes.

    Args:
        model: the network.
        inputs: an example input.
    """
    return run_forward(model, inputs) + run_forward(model, randomize_inputs(inputs))


def _changed(
    model: nn.Module, inputs: Inputs, change: Change, optimizers: Any
) -> tuple[Difference, list[Tensor], Undo]:
    """Make a change, and compare outputs before and after.

    Args:
        model: the network.
        inputs: an example input.
        change: cuts the network, and the state of the optimizers it is given.
        optimizers: given to `change`.

    Returns:
        The largest difference of the outputs, the outputs before the change, and what undoes it.

    Raises:
        GDPError: the changed network does not run; the change is undone then.
    """
    expected, undo = _outputs(model, inputs), change(optimizers)
    try:
        return Difference.between(expected, _outputs(model, inputs)), expected, undo
    except Exception as error:
        undo()
        line = source_line(error)
        raise GDPError(
            f"{type(model).__name__}.forward can't follow the cut ({type(error).__name__}: {first_line(error)}"
            f"{f' at {line}' if line else ''}); a size is probably written into it. Nothing was changed. Leave the "
            "layers around it alone: ignore=[...]."
        ) from error
