"""Polarization: what the loss says about every gate, and how gates move to exactly 0 or back to 1. Tensor functions."""

from __future__ import annotations

import torch
from torch import Tensor

from gdp.gates import Gates, polar


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


def gate_gradients(gates: Gates) -> Tensor | None:
    """`g_c * dL/dg_c` for every channel of all groups, shape (channels,), summed over the weights that read it.

    None as long as no gated weight has a gradient. The state of the gates moves to where the weights are.
    """
    readers = gates.readers
    weights = [reader.weight for reader in readers]
    if all(w.grad is None for w in weights):
        return None
    device = weights[0].device
    gates.to(device)
    found = [torch.zeros(len(reader.index), dtype=torch.float32, device=device) for reader in readers]
    once = {(id(weight), reader.dim): i for i, (reader, weight) in enumerate(zip(readers, weights, strict=True))}
    for i in once.values():  # the gradient of tied weights is the sum over their uses already
        grad = weights[i].grad
        if grad is not None:
            found[i] = gate_gradient(weights[i], grad, readers[i].dim).float()
    by_channel = torch.zeros(len(gates.raw) + 1, dtype=torch.float32, device=device)
    return by_channel.index_add_(0, gates.index, torch.cat(found))[:-1]


def sensitivity(past: Tensor, gradient: Tensor, memory: float) -> Tensor:
    """Running mean of the squared gate gradient; a gradient that is not finite changes nothing.

    The square, because first-order gradients vanish at trained gates and leave noise; it is the diagonal of the
    empirical Fisher information of the gates (own choice; Fisher pruning: Theis et al., arXiv 1801.05787).
    """
    return torch.where(gradient.isfinite().all(), memory * past + (1 - memory) * gradient.square(), past)


def anneal(first: float, last: float, progress: float) -> float:
    """Geometric annealing of eps.

    >>> round(anneal(0.1, 1e-4, 2 / 3), 6)
    0.001
    """
    return first * (last / first) ** min(max(progress, 0.0), 1.0)


def move(raw: Tensor, keep: Tensor, eps: float, factor: float, closed_below: float) -> Tensor:
    """One polarization step: gates that should go shrink, gates that should stay grow back to 1.

    The step is a sign step in log x on `lambda * cost - worth`, projected on x <= 1; near 0 it is the exponential decay
    that gradient descent on GDP's gate gives. As that never ends, gates whose value fell below `closed_below` are set
    to exactly 0 by a proximal step, and 0 stays 0.

    Args:
        raw: x of every gate, in [0, 1].
        keep: gates whose worth exceeds lambda times their cost.
        eps: sharpness of the polar gate.
        factor: what x shrinks by per step, below 1.
        closed_below: value of a gate that is as good as closed.
    """
    moved = torch.where(keep, raw / factor, raw * factor).clamp_max(1.0)
    return torch.where(~keep & (polar(moved, eps) < closed_below), 0.0, moved)


def settle(raw: Tensor, keep: Tensor, eps: float) -> Tensor:
    """The end of the window: what should go is exactly 0, and every other gate is well above one half."""
    return torch.where(keep, raw.clamp_min((2 * eps) ** 0.5), 0.0)
