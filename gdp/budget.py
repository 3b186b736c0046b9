"""The budget: how many FLOPs are allowed now, and which channels may stay open for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph import ChannelGraph, FlopModel
from gdp.widths import Widths, exchanged, seats


@dataclass(frozen=True)
class Selection:
    """Which channels stay open under an allowance.

    Attributes:
        keep: one bool per channel of all groups, shape (channels,).
        opened: how many channels of every group are kept, shape (groups,).
        multiplier: lambda, the worth per FLOP that a channel needs in order to stay.
    """

    keep: Tensor
    opened: Tensor
    multiplier: float


def lowest(graph: ChannelGraph, widths: Widths | None = None) -> int:
    """FLOPs of the smallest network: one channel left in every group, if nothing else is asked for."""
    return graph.flops.count((widths or Widths.of(graph)).smallest)


def check_target(target: float) -> None:
    """Refuse what is no fraction.

    Raises:
        GDPError: the target does not lie in (0, 1].
    """
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target <= 1:
        percent = isinstance(target, int | float) and 1 < target <= 100
        hint = f"; for {target:g} % write {target / 100:g}" if percent else ""
        raise GDPError(f"Expected `target_flops`, the fraction of FLOPs that remains, in (0, 1], got {target!r}{hint}.")


def check_reachable(graph: ChannelGraph, target: float, widths: Widths | None = None) -> None:
    """Refuse what can't be reached in this network.

    Raises:
        GDPError: nothing can be pruned, or frozen layers cost more than the target.
    """
    if not graph.groups:
        raise GDPError(
            "No channel of this network can be pruned. What was found, and why it has to stay:\n"
            + (graph.reasons() or "  there is no conv or linear layer")
        )
    least = lowest(graph, widths) / graph.flops.dense
    if target < least:
        raise GDPError(
            f"target_flops={target} is out of reach: {least:.4f} of the FLOPs remains in the smallest network that "
            f"gdp may make. The lowest target for this network is {math.ceil(least * 1e4) / 1e4:.4f}. Left alone:\n"
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


def select_channels(
    worth: Tensor,
    group_of: Tensor,
    alive: Tensor,
    flops: FlopModel,
    budget: int,
    widths: Widths,
    floor: Tensor | None = None,
    slack: int | None = None,
) -> Selection:
    """Keep the channels with the highest worth per FLOP that fit into the budget.

    The multiplier lambda of `max sum_kept worth - lambda * FLOPs` is found by bisection on counts, since FLOPs fall
    monotonically as it grows. What the last step leaves unused is filled with the best channels that still fit.

    Args:
        worth: how much the loss would suffer without each channel, shape (channels,), not negative.
        group_of: group of every channel.
        alive: channels that are not closed for good.
        flops: the FLOPs as a function of open counts.
        budget: FLOPs that may remain.
        widths: the counts that are legal.
        floor: legal counts that every group keeps at least, shape (groups,); default: those of the smallest network.
        slack: FLOPs that may be left unused; where single channels are so dear that more would be, a few are exchanged
            for others. Default: any number.
    """
    groups = len(flops.sizes)
    floor = widths.smallest if floor is None else floor
    now = torch.bincount(group_of[alive], minlength=groups)
    ratio = worth.double() / flops.marginal(now)[group_of].clamp_min(1e-30)
    ratio = torch.nan_to_num(ratio, nan=0.0, posinf=torch.finfo(torch.float64).max)
    ratio[~alive] = -1.0
    order = torch.argsort(ratio, descending=True, stable=True)[: int(alive.sum())]
    must = seats(group_of[order]) < floor[group_of[order]]
    order = torch.cat([order[must], order[~must]])

    def counts(kept: int) -> Tensor:
        return widths.legal(torch.bincount(group_of[order[:kept]], minlength=groups))

    low, high = int(must.sum()), len(order)
    if flops.count(counts(high)) <= budget:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops.count(counts(middle)) <= budget else (low, middle)
    multiplier = float(ratio[order[low]]) if low < len(order) else 0.0
    opened = _fill(counts(low), order[low:], group_of, now, flops, widths, budget)
    if slack is not None:
        opened = exchanged(opened, floor, worth.double(), group_of, order, flops, widths, budget, slack)
    keep = torch.zeros_like(alive)
    keep[order[seats(group_of[order]) < opened[group_of[order]]]] = True
    return Selection(keep, opened, multiplier)


def _fill(
    opened: Tensor, rest: Tensor, group_of: Tensor, limit: Tensor, flops: FlopModel, widths: Widths, budget: int
) -> Tensor:
    """Open further channels, best first, as long as those of any group still fit; return the counts."""
    while len(rest):
        gap = budget - flops.count(opened)
        step = torch.minimum(widths.step, widths.size - opened)
        rest = rest[(flops.marginal(opened) * step)[group_of[rest]] <= gap]  # a lower bound of what they cost
        if len(rest) == 0:
            break
        group = int(group_of[rest[0]])
        more = widths.wider(opened, group)
        if bool((more <= limit).all()) and flops.count(more) <= budget:
            opened, rest = more, rest[1:]
        else:  # and it will not fit later
            rest = rest[group_of[rest] != group]
    return opened
