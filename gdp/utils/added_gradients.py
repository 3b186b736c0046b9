"""Add to the gradients that parameters have."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def add_gradient(loss: Tensor | None, parameters: Iterable[nn.Parameter], scale: float = 1.0) -> None:
    """Add the gradient of a loss to `grad` of the parameters it depends on, as if it had been part of the loss so far.

    Args:
        loss: a scalar with its graph; without one, or without a loss, nothing happens.
        parameters: that may get a gradient; those that are not trained get none.
        scale: what the gradients are multiplied with that are there (by a gradient scaler).
    """
    trained = [p for p in parameters if p.requires_grad]
    if loss is None or not loss.requires_grad or not trained:
        return
    found = torch.autograd.grad(loss * scale, trained, allow_unused=True)
    there: tuple[list[Tensor], list[Tensor]] = ([], [])  # gradients, and what is added to them
    for parameter, gradient in zip(trained, found, strict=True):
        if gradient is not None and parameter.grad is None:
            parameter.grad = gradient
        elif gradient is not None and parameter.grad is not None:
            there[0].append(parameter.grad)
            there[1].append(gradient)
    if there[0]:  # in place, since gradients may be views of the buckets of DistributedDataParallel
        with torch.no_grad():
            torch._foreach_add_(*there)
