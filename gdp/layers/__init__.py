"""Layers that have fewer weights, or learn which they need: linear combinations of filters, and stripes of filters.

They stand beside the budget: `linearize` and `stripe` swap convs for them, `fold` turns them back.
"""

from gdp.layers.checks import check_not_negative
from gdp.layers.linear_conv import LinearConv2d, correlation_loss
from gdp.layers.penalty import CORRELATION, EVERY, SPARSITY, penalty
from gdp.layers.shifted_conv import ShiftedConv2d
from gdp.layers.stripe_conv import THRESHOLD, StripeConv2d
from gdp.layers.structure import layers_around_cut, layers_in, rebuild
from gdp.layers.swap import Swap, Swaps, fold, linearize, prune_stripes, stripe

__all__ = [
    "CORRELATION",
    "EVERY",
    "SPARSITY",
    "THRESHOLD",
    "LinearConv2d",
    "ShiftedConv2d",
    "StripeConv2d",
    "Swap",
    "Swaps",
    "check_not_negative",
    "correlation_loss",
    "fold",
    "layers_around_cut",
    "layers_in",
    "linearize",
    "penalty",
    "prune_stripes",
    "rebuild",
    "stripe",
]
