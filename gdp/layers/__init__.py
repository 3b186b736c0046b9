"""Layers that have fewer weights, or learn which they need: linear combinations of filters, and stripes of filters.

They stand beside the budget: `linearize` and `stripe` swap convs for them, `fold` turns them back.
"""

from gdp.layers.linear_conv import LinearConv2d, correlation_loss
from gdp.layers.shifted_conv import ShiftedConv2d
from gdp.layers.stripe_conv import THRESHOLD, StripeConv2d
from gdp.layers.structure import layers_around_cut, layers_in, rebuild
from gdp.layers.swap import Swap, Swaps, fold, linearize, prune_stripes, stripe

__all__ = [
    "THRESHOLD",
    "LinearConv2d",
    "ShiftedConv2d",
    "StripeConv2d",
    "Swap",
    "Swaps",
    "correlation_loss",
    "fold",
    "layers_around_cut",
    "layers_in",
    "linearize",
    "prune_stripes",
    "rebuild",
    "stripe",
]
