"""A loss of inner activations and outputs, added in passes of the network without touching what computes the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from gdp.errors import GDPError
from gdp.gates import Seen, passes_shown
from gdp.pruning.pruner import Pruner


@contextmanager
def forward_loss_added(pruner: Pruner, scaled: Callable[[Tensor], Tensor] = lambda loss: loss) -> Iterator[list[str]]:
    """Add the method's `forward_loss` in every pass of the network in training mode with gradients: to its gradients.

    The loss that is computed from the network's output is not changed; when gradients are taken of it, they are those
    of both losses. For a plain loop: `with forward_loss_added(pruner): f(net(x)).backward()`.

    Args:
        pruner: of the run; nothing is added once it is done.
        scaled: multiplies a loss with what the loss of the network's output is multiplied with before gradients are
            taken (by a gradient scaler, or the mean over accumulated batches).

    Yields:
        A list that gets, at the end of every such pass, the names of the layers that have shown what they read.
    """
    shown: list[str] = []

    def end(seen: Seen) -> Any:
        """Return the output of a pass, which takes the loss along; None if there is nothing to add."""
        if pruner.done or not pruner.gates.model.training or not torch.is_grad_enabled():
            return None
        shown.extend(activation.layer for activation in seen.activations)
        loss = pruner.method_run.forward_loss(seen, pruner.context)
        if loss is None or not loss.requires_grad:
            return None
        return _taking_along(scaled(loss.to(torch.promote_types(loss.dtype, torch.float32))), seen.output)

    with passes_shown(pruner.gates, end):
        yield shown


def _taking_along(loss: Tensor, output: Any) -> Any:
    """Return the output of a network, through which the gradient of a further loss is taken along.

    Args:
        loss: scalar with its graph.
        output: nested containers of tensors.

    Raises:
        GDPError: none of them has a gradient.
    """
    leaves, structure = tree_flatten(output)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not places:
        raise GDPError(
            "A method that adds a loss does so where the gradient of the network's output arrives, but no tensor in "
            f"what the network returns (a {type(output).__name__}) has one. Return a tensor, a tuple, a list or a dict "
            "from forward."
        )
    taken: tuple[Tensor, ...] = _TakeAlong.apply(loss, *(leaves[i] for i in places))
    for place, tensor in zip(places, taken, strict=True):
        leaves[place] = tensor
    return tree_unflatten(leaves, structure)


class _TakeAlong(torch.autograd.Function):
    """Return tensors as they are; a loss gets the gradient 1 when the first of theirs arrive.

    They are copied: a view of an input could not be changed in place afterwards.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Copy the outputs.

        Args:
            ctx: of the function.
            loss: scalar.
            outputs: of the network.
        """
        ctx.set_materialize_grads(False)
        ctx.loss = loss.detach()
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of loss and outputs.

        Args:
            ctx: of the function.
            gradients: of the outputs.

        Raises:
            GDPError: a graph of this backward pass is made, in which the added loss would be mistaken for the output's.
        """
        if torch.is_grad_enabled():
            raise GDPError(
                "Gradients of the network's output are taken with create_graph=True (a penalty on gradients), and a "
                "loss that the method adds at the output would be counted in them. Use a method that adds none, such "
                "as method='polar'."
            )
        return torch.ones_like(ctx.loss), *gradients
