"""Compute the gradient of the loss by every gate from the gradients of the weights that it multiplies."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates.gates import Gates


def gate_gradient(weight: Tensor, grad: Tensor, dim: int) -> Tensor:
    """Return `g_c * dL/dg_c` for the gate g_c of every input channel c of a gated weight.

    The layer computes with `V = W * g`. By the chain rule `sum(W_c * dL/dW_c) = g_c * dL/dg_c`, so the gradient of the
    weight is all that is needed.

    Args:
        weight: W, of any shape.
        grad: dL/dW, of the same shape.
        dim: dimension of the input channels.

    Returns:
        Gradients, shape (size along dim,), in the type of the weight.
    """
    product = weight * grad
    if product.dim() == 1:
        return product
    if not product.is_contiguous():  # channels last
        return product.sum([d for d in range(product.dim()) if d != dim])
    if dim > 0:  # the dimensions before `dim` first: several times as fast as all at once
        product = product.sum(tuple(range(dim)))
    return product.sum(tuple(range(1, product.dim()))) if product.dim() > 1 else product


def gate_gradients(gates: Gates, loss: Tensor | None = None, trained: Container[int] | None = None) -> Tensor | None:
    """Return `g_c * dL/dg_c` for every channel c of all groups, summed over the weights that read it.

    Args:
        gates: of the network; their state is moved to the device of the weights.
        loss: scalar; its gradients are computed here, and `weight.grad` is left as it is. Default: take `weight.grad`.
        trained: ids of the parameters that are about to be stepped; default: all of the network.

    Returns:
        Gradients, shape (channels of all groups,), float32; None if no gated weight has a gradient, or none is trained.
    """
    # the gradients of the gated weights
    readers = gates.readers
    weights = [reader.weight for reader in readers]
    if trained is not None and not any(id(weight) in trained for weight in weights):
        return None
    grads = _gradients(weights, loss)
    if all(grad is None for grad in grads):
        return None

    # per gated weight and input channel; a weight that several layers share counts once, since its gradient is the sum
    # over its uses already
    device = weights[0].device
    gates.to(device)
    per_reader = [torch.zeros(len(reader.index), dtype=torch.float32, device=device) for reader in readers]
    distinct = {(id(weight), reader.dim): i for i, (reader, weight) in enumerate(zip(readers, weights, strict=True))}
    for i in distinct.values():
        grad = grads[i]
        if grad is not None:
            per_reader[i] = gate_gradient(weights[i], grad, readers[i].dim).float()
    return sum_by_channel(gates, per_reader)


def held_out_gradients(gates: Gates, loss: Tensor) -> Tensor | None:
    """Return `g_c * dL/dg_c` for every channel c of all groups, on a batch that the weights are not trained on.

    Args:
        gates: of the network.
        loss: of the held-out batch, a scalar with its graph.

    Returns:
        Gradients, shape (channels of all groups,), float32; None if no gated weight requires a gradient.

    Raises:
        GDPError: no weight with a gate has a part in this loss.
    """
    with torch.enable_grad():
        gradient = gate_gradients(gates, loss)
    if gradient is None and any(reader.weight.requires_grad for reader in gates.readers):
        raise GDPError(
            "The loss of a held-out batch has no gradient in any gated weight, so the gates can't learn. Let the "
            "training step return the loss with its graph, without reentrant checkpoints, or use method='polar'."
        )
    return gradient


def sum_by_channel(gates: Gates, per_reader: list[Tensor]) -> Tensor:
    """Return the sum over all gated weights of something that they have per input channel.

    Args:
        gates: of the network.
        per_reader: for every gated weight in `gates.readers`, a number per input channel, shape (its input channels,).

    Returns:
        Sums, shape (channels of all groups,), float32.
    """
    total = torch.zeros(len(gates.gate_param) + 1, dtype=torch.float32, device=gates.index.device)
    return total.index_add_(0, gates.index, torch.cat(per_reader))[:-1]


def _gradients(weights: list[nn.Parameter], loss: Tensor | None) -> list[Tensor | None]:
    """Return the gradient of every weight, or None for those that have none.

    Args:
        weights: gated weights; one that is shared by layers appears several times.
        loss: scalar that the gradients are computed of; default: take `weight.grad`.
    """
    if loss is None:
        return [weight.grad for weight in weights]
    trained = [weight for weight in {id(w): w for w in weights}.values() if weight.requires_grad]
    if not trained or not loss.requires_grad:
        return [None] * len(weights)
    grads = torch.autograd.grad(loss, trained, allow_unused=True)
    grad_of = {id(weight): grad for weight, grad in zip(trained, grads, strict=True)}
    return [grad_of.get(id(weight)) for weight in weights]
