"""The budget: how many FLOPs are allowed now, and which channels may stay open for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph import ChannelGraph, FlopModel

EXCHANGES = 30_000  # count vectors that are tried at most, and only where single channels cost more than the slack


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


def lowest(graph: ChannelGraph) -> int:
    """FLOPs with one channel left in every group."""
    return graph.flops.count(torch.ones_like(graph.flops.sizes))


def check_target(target: float) -> None:
    """Refuse what is no fraction.

    Raises:
        GDPError: the target does not lie in (0, 1].
    """
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target <= 1:
        raise GDPError(f"Expected `target_flops`, the fraction of FLOPs that remains, in (0, 1], got {target!r}.")


def check_reachable(graph: ChannelGraph, target: float) -> None:
    """Refuse what can't be reached in this network.

    Raises:
        GDPError: nothing can be pruned, or frozen layers cost more than the target.
    """
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


def select_channels(
    worth: Tensor, group_of: Tensor, alive: Tensor, flops: FlopModel, budget: int, floor: Tensor, slack: int
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
        floor: channels that every group keeps at least, shape (groups,), 1 or more.
        slack: FLOPs that may be left unused; where single channels are so dear that more would be, a few are exchanged
            for others.
    """
    groups = len(flops.sizes)
    now = torch.bincount(group_of[alive], minlength=groups)
    ratio = worth.double() / flops.marginal(now)[group_of].clamp_min(1e-30)
    ratio = torch.nan_to_num(ratio, nan=0.0, posinf=torch.finfo(torch.float64).max)
    ratio[~alive] = -1.0
    order = torch.argsort(ratio, descending=True, stable=True)[: int(alive.sum())]
    must = _seat(group_of[order]) < floor[group_of[order]]
    order = torch.cat([order[must], order[~must]])

    def counts(kept: int) -> Tensor:
        return torch.bincount(group_of[order[:kept]], minlength=groups)

    low, high = int(must.sum()), len(order)
    if flops.count(counts(high)) <= budget:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops.count(counts(middle)) <= budget else (low, middle)
    multiplier = float(ratio[order[low]]) if low < len(order) else 0.0
    opened = _fill(counts(low), order[low:], group_of, flops, budget)
    opened = _exchange(opened, floor, worth.double(), group_of, order, flops, budget, slack)
    keep = torch.zeros_like(alive)
    keep[order[_seat(group_of[order]) < opened[group_of[order]]]] = True
    return Selection(keep, opened, multiplier)


def _fill(opened: Tensor, rest: Tensor, group_of: Tensor, flops: FlopModel, budget: int) -> Tensor:
    """Open further channels, best first, as long as one of any group still fits; return the counts."""
    while len(rest):
        gap = budget - flops.count(opened)
        rest = rest[flops.marginal(opened)[group_of[rest]] <= gap]  # a lower bound of what one more channel costs
        if len(rest) == 0:
            break
        more = opened.clone()
        more[group_of[rest[0]]] += 1
        rest = rest[1:]
        if flops.count(more) <= budget:
            opened = more
    return opened


def _exchange(
    opened: Tensor,
    floor: Tensor,
    worth: Tensor,
    group_of: Tensor,
    order: Tensor,
    flops: FlopModel,
    budget: int,
    slack: int,
) -> Tensor:
    """The worthiest open counts that use the budget up to the slack, or as far as channels of this size allow.

    Within a group the channels come in the order of `order`, so counts say it all.
    """
    limit = torch.bincount(group_of[order], minlength=len(opened))
    if flops.count(opened) >= budget - slack or torch.equal(opened, limit):
        return opened
    few = (limit - floor + 1).double().prod() <= EXCHANGES
    near = _all_counts(floor, limit) if few else torch.cat([opened[None], _neighbours(opened, floor, limit)])
    cost = flops.counts(near)
    near, cost = near[cost <= budget], cost[cost <= budget]
    if len(near) == 0:  # not even the floor fits
        return opened
    near = near[cost >= min(budget - slack, int(cost.max()))]
    total = torch.zeros(len(opened), int(limit.max()) + 1, dtype=torch.float64)
    total[group_of[order], _seat(group_of[order]) + 1] = worth[order]
    return near[
        total.cumsum(1).gather(1, near.T).sum(0).argmax()
    ]  # total: worth of the first k channels of every group


def _all_counts(floor: Tensor, limit: Tensor) -> Tensor:
    """Every vector of open counts, shape (vectors, groups)."""
    ranges = [torch.arange(low, high + 1) for low, high in zip(floor.tolist(), limit.tolist(), strict=True)]
    return torch.cartesian_prod(*ranges).view(-1, len(ranges))


def _neighbours(opened: Tensor, floor: Tensor, limit: Tensor) -> Tensor:
    """Open counts two to four channels away from `opened`, shape (vectors, groups)."""
    signed = range(2 * len(opened))  # one channel less, or one more, of every group
    near = []
    for size in (2, 3, 4):
        moves = torch.tensor(list(islice(combinations_with_replacement(signed, size), EXCHANGES // 3)))
        change = torch.zeros(len(moves), len(signed), dtype=torch.long).scatter_add_(1, moves, torch.ones_like(moves))
        less, more = change.chunk(2, 1)
        near.append(opened + more - less)
    found = torch.cat(near)
    return found[((found >= floor) & (found <= limit)).all(1)]


def _seat(owner: Tensor) -> Tensor:
    """Place of every entry among those of the same owner, in order of appearance.

    >>> _seat(torch.tensor([1, 0, 1, 1, 0])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_owner = torch.argsort(owner, stable=True)
    sizes = torch.bincount(owner)
    place = torch.arange(len(owner)) - (sizes.cumsum(0) - sizes)[owner[by_owner]]
    return torch.empty_like(place).scatter_(0, by_owner, place)
