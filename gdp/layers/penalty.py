"""The losses that layers of this package are trained with, beside the user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdp.layers.linear_conv import LinearConv2d, correlation_loss
from gdp.layers.stripe_conv import StripeConv2d

CORRELATION = 0.01  # weight of the correlation loss in the public code of LinearConv, which adds it
EVERY = 10  # at every so many batches
SPARSITY = 1e-5  # weight of the L1 norm of skeletons in the public code of SWP


def penalty(net: nn.Module, correlation: float = CORRELATION, sparsity: float = SPARSITY) -> Tensor | None:
    """Return the correlation loss of all primary filters, and the L1 norm of all skeletons, each times its weight.

    For training loops of one's own; in Lightning, `gdp.LayersCallback` adds the gradient of it. The derivative of the
    L1 norm at 0 is taken to be 0.

    Args:
        net: that holds layers of `gdp.layers`.
        correlation: weight of `sum |corrcoef(B) - I|` of every `LinearConv2d` (arXiv 1907.11432); 0 leaves it out.
        sparsity: weight of `sum |FS|` of every `StripeConv2d` (SWP, NeurIPS 2020); 0 leaves it out.

    Returns:
        A scalar that can be differentiated; None if nothing is there to be penalised.

    >>> from gdp.layers import stripe
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3))
    >>> done = stripe(net)
    >>> round(float(penalty(net).detach()), 6)  # 8 filters of 9 stripes, times 1e-5
    0.00072
    """
    terms: list[Tensor] = []
    for layer in net.modules():
        if isinstance(layer, LinearConv2d) and correlation:
            filters = layer.primary._parameters.get("weight")  # not the product with a gate
            terms.append(correlation * correlation_loss(layer.primary.weight if filters is None else filters))
        elif isinstance(layer, StripeConv2d) and sparsity:
            terms.append(sparsity * layer.skeleton.abs().sum())
    return torch.stack(terms).sum() if terms else None
