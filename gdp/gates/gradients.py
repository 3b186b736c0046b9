"""What the loss says about every gate: its gradient is in the gradient of the weights behind it. Tensor functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates.gates import Gates


def gate_gradient(weight: Tensor, grad: Tensor, dim: int) -> Tensor:
    """`g_c * dL/dg_c` for every input channel c of a gated weight, shape (size along dim,).

    With `V = W * g` the chain rule gives `sum(W_c * dL/dW_c) = g_c * dL/dg_c`: the gate's gradient is in the weight's.
    """
    found = weight * grad
    if found.dim() == 1:
        return found
    if not found.is_contiguous():  # channels last
        return found.sum([d for d in range(found.dim()) if d != dim])
    if dim > 0:  # whole rows first: several times as fast as all at once
        found = found.sum(tuple(range(dim)))
    return found.sum(tuple(range(1, found.dim()))) if found.dim() > 1 else found


def gate_gradients(gates: Gates, loss: Tensor | None = None) -> Tensor | None:
    """`g_c * dL/dg_c` for every channel of all groups, shape (channels,), summed over the weights that read it.

    None as long as no gated weight has a gradient. The state of the gates moves to where the weights are.

    Args:
        gates: of the network.
        loss: whose gradients are computed here, leaving those of the weights as they are; default: the latter.
    """
    readers = gates.readers
    weights = [reader.weight for reader in readers]
    grads = _gradients(weights, loss)
    if all(grad is None for grad in grads):
        return None
    device = weights[0].device
    gates.to(device)
    found = [torch.zeros(len(reader.index), dtype=torch.float32, device=device) for reader in readers]
    once = {(id(weight), reader.dim): i for i, (reader, weight) in enumerate(zip(readers, weights, strict=True))}
    for i in once.values():  # the gradient of tied weights is the sum over their uses already
        grad = grads[i]
        if grad is not None:
            found[i] = gate_gradient(weights[i], grad, readers[i].dim).float()
    return sum_by_channel(gates, found)


def held_out_gradients(gates: Gates, loss: Tensor) -> Tensor | None:
    """The same of a batch that the weights are not trained on; None if no gated weight is trained at all.

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


def sum_by_channel(gates: Gates, found: list[Tensor]) -> Tensor:
    """The sum over all gated weights of something they have per input channel, shape (channels of all groups,)."""
    total = torch.zeros(len(gates.gate_param) + 1, dtype=torch.float32, device=gates.index.device)
    return total.index_add_(0, gates.index, torch.cat(found))[:-1]


def _gradients(weights: list[nn.Parameter], loss: Tensor | None) -> list[Tensor | None]:
    if loss is None:
        return [weight.grad for weight in weights]
    trained = [weight for weight in {id(w): w for w in weights}.values() if weight.requires_grad]
    if not trained or not loss.requires_grad:
        return [None] * len(weights)
    grads = torch.autograd.grad(loss, trained, allow_unused=True)
    of = {id(weight): grad for weight, grad in zip(trained, grads, strict=True)}
    return [of.get(id(weight)) for weight in weights]
