"""The budget: how many FLOPs are allowed now, and which channels may stay open for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph import ChannelGraph, FlopModel


@dataclass(frozen=True)
class Selection:
    """Which channels stay open under an allowance.

    Attributes:
        keep: one bool per channel of all groups, shape (channels,).
        multiplier: lambda, the worth per FLOP that a channel needs in order to stay.
        flops: what the kept channels cost.
    """

    keep: Tensor
    multiplier: float
    flops: int


def lowest(graph: ChannelGraph) -> int:
    """FLOPs with one channel left in every group."""
    return graph.flops.count(torch.ones_like(graph.flops.sizes))


def check_target(graph: ChannelGraph, target: float) -> None:
    """Refuse what can't be reached.

    Raises:
        GDPError: the target is no fraction, nothing can be pruned, or frozen layers cost more than the target.
    """
    if not isinstance(target, int | float) or not 0 < target <= 1:
        raise GDPError(f"Expected `target_flops` to be the fraction of FLOPs that remains, in (0, 1], but got {target!r}.")
    if not graph.groups:
        raise GDPError(
            "No channel of this network can be pruned. What was found, and why it has to stay:\n"
            + (graph.reasons() or "  there is no conv or linear layer")
        )
    least = lowest(graph) / graph.flops.dense
    if target < least:
        raise GDPError(
            f"target_flops={target} is out of reach: with one channel left in every group {least:.4f} of the FLOPs "
            f"remains. The lowest target for this network is {math.ceil(least * 1e4) / 1e4:.4f}. Left alone:\n"
            + graph.reasons()
        )


def allowance(progress: float, target: float) -> float:
    """Fraction of the dense FLOPs allowed at `progress` in [0, 1] of the window: cubic from 1 down to the target.

    The cubic schedule is that of Zhu and Gupta, arXiv 1710.01878, equation 1.

    >>> [round(allowance(p, 0.4), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.475, 0.4]
    """
    left = 1 - min(max(progress, 0.0), 1.0)
    return target + (1 - target) * left**3


def select_channels(worth: Tensor, group_of: Tensor, alive: Tensor, flops: FlopModel, budget: int) -> Selection:
    """Keep the channels with the highest worth per FLOP that fit into the budget; one channel of every group stays.

    The multiplier lambda of `max sum_kept worth - lambda * FLOPs` is found by bisection on counts, since FLOPs fall
    monotonically as it grows. What the last step leaves unused is filled with the best channels that still fit.

    Args:
        worth: how much the loss would suffer without each channel, shape (channels,), not negative.
        group_of: group of every channel.
        alive: channels that are not closed for good.
        flops: the FLOPs as a function of open counts.
        budget: FLOPs that may remain.
    """
    groups = len(flops.sizes)
    now = torch.bincount(group_of[alive], minlength=groups)
    ratio = worth.double() / flops.marginal(now)[group_of].clamp_min(1e-30)
    ratio = torch.nan_to_num(ratio, nan=0.0, posinf=torch.finfo(torch.float64).max)
    ratio[~alive] = -1.0
    order = torch.argsort(ratio, descending=True, stable=True)
    # the first channel of a group in this order is the one that must stay
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    first = torch.full((groups,), len(order)).scatter_reduce(0, group_of, rank, "amin")
    must = torch.zeros_like(alive)
    must[order[first]] = True
    order = torch.cat([order[must[order]], order[~must[order] & alive[order]]])

    def counts(kept: int) -> Tensor:
        return torch.bincount(group_of[order[:kept]], minlength=groups)

    low, high = groups, len(order)
    if flops.count(counts(high)) <= budget:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops.count(counts(middle)) <= budget else (low, middle)
    keep = torch.zeros_like(alive)
    keep[order[:low]] = True
    multiplier = float(ratio[order[low]]) if low < len(order) else 0.0
    _fill(keep, order[low:], group_of, flops, budget)
    return Selection(keep, multiplier, flops.count(torch.bincount(group_of[keep], minlength=groups)))


def _fill(keep: Tensor, rest: Tensor, group_of: Tensor, flops: FlopModel, budget: int) -> None:
    """Keep further channels, best first, as long as one of any group still fits."""
    groups = len(flops.sizes)
    opened = torch.bincount(group_of[keep], minlength=groups)
    while len(rest):
        gap = budget - flops.count(opened)
        rest = rest[flops.marginal(opened)[group_of[rest]] <= gap]  # a lower bound of what one more channel costs
        if len(rest) == 0:
            return
        best, rest = int(rest[0]), rest[1:]
        more = opened.clone()
        more[group_of[best]] += 1
        if flops.count(more) <= budget:
            keep[best], opened = True, more
