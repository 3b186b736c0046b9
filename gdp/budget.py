"""The budget: how many FLOPs are allowed now, and which channels may stay open for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph import ChannelGraph, FlopModel
from gdp.widths import Widths, exchanged

PARTS = 32  # borders that are tried at once


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


@dataclass(frozen=True)
class Ranking:
    """The channels that are not closed, the worthiest per FLOP first.

    Attributes:
        channel: which channel of all groups it is, shape (open channels,).
        ratio: worth per FLOP.
        group: the group of each.
        places: where in this order the channels of every group stand, one group after the other.
        start: where a group begins in `places`, shape (groups + 1,).
        worth: of every channel of all groups, float64.
    """

    channel: np.ndarray
    ratio: np.ndarray
    group: np.ndarray
    places: np.ndarray
    start: np.ndarray
    worth: Tensor

    @classmethod
    def of(cls, worth: Tensor, group_of: Tensor, alive: Tensor, flops: FlopModel) -> Ranking:
        """Rank channels.

        Args:
            worth: how much the loss would suffer without each channel, shape (channels,), not negative.
            group_of: group of every channel.
            alive: channels that are not closed for good.
            flops: the FLOPs as a function of open counts.
        """
        groups, worth = len(flops.sizes), worth.double()
        open_now = np.flatnonzero(alive.numpy())
        group = group_of.numpy()[open_now]
        limit = np.bincount(group, minlength=groups)
        ratio = worth.numpy()[open_now] / np.maximum(flops.marginal(torch.from_numpy(limit)).numpy(), 1e-30)[group]
        ratio = np.nan_to_num(ratio, nan=0.0, posinf=np.finfo(np.float64).max)
        order = np.argsort(-ratio)
        group = group[order]
        # integers of 16 bits are sorted by radix, ten times as fast
        places = np.argsort(group.astype(np.uint16) if groups < 2**16 else group, kind="stable")
        return cls(open_now[order], ratio[order], group, places, np.concatenate([[0], limit.cumsum()]), worth)

    @property
    def limit(self) -> Tensor:
        """Open channels of every group, shape (groups,)."""
        return torch.from_numpy(np.diff(self.start))

    @property
    def _seat(self) -> np.ndarray:
        """Which of its group's channels stands in `places`, the worthiest being 0."""
        return np.arange(len(self.places)) - np.repeat(self.start[:-1], np.diff(self.start))

    def worth_of_first(self) -> Tensor:
        """What the first k channels of every group are worth, shape (groups, largest k + 1)."""
        worth = torch.zeros(len(self.start) - 1, int(self.limit.max()) + 1, dtype=torch.float64)
        group, seat = self.group[self.places], self._seat
        worth[torch.from_numpy(group), torch.from_numpy(seat) + 1] = self.worth[self.channel[self.places]]
        return worth.cumsum(1)

    def keep(self, opened: Tensor) -> Tensor:
        """The first so many channels of every group, one bool per channel of all groups."""
        kept = self.places[self._seat < np.repeat(opened.numpy(), np.diff(self.start))]
        keep = np.zeros(len(self.worth), dtype=bool)
        keep[self.channel[kept]] = True
        return torch.from_numpy(keep)


def select_channels(
    ranking: Ranking,
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
        ranking: the channels in the order of their worth per FLOP.
        flops: the FLOPs as a function of open counts.
        budget: FLOPs that may remain.
        widths: the counts that are legal.
        floor: legal counts that every group keeps at least, shape (groups,); default: those of the smallest network.
        slack: FLOPs that may be left unused; where single channels are so dear that more would be, a few are exchanged
            for others. Default: any number.
    """
    floor = torch.minimum(widths.smallest if floor is None else floor, ranking.limit)
    first, opened = _longest(ranking, flops, budget, widths, floor)
    multiplier = float(ranking.ratio[first]) if first < len(ranking.ratio) else 0.0
    opened = _fill(opened, first, floor, ranking, flops, widths, budget)
    limit = ranking.limit
    if slack is not None and flops.count(opened) < budget - slack and not torch.equal(opened, limit):
        opened = exchanged(opened, floor, limit, ranking.worth_of_first(), flops, widths, budget, slack)
    return Selection(ranking.keep(opened), opened, multiplier)


def _longest(ranking: Ranking, flops: FlopModel, budget: int, widths: Widths, floor: Tensor) -> tuple[int, Tensor]:
    """How many of the first channels fit into the budget beside the floor, and the legal counts they make.

    A bisection in 32 parts at once: the counts at all the borders are one table.
    """
    groups, low, high = len(floor), 0, len(ranking.group) + 1
    counted, best = torch.zeros(groups, dtype=torch.long), widths.legal(floor)
    while high - low > 1:
        width = -(-(high - low - 1) // PARTS)
        inside = ranking.group[low : high - 1]
        part = np.arange(len(inside)) // width
        table = np.bincount(part * groups + inside, minlength=(int(part[-1]) + 1) * groups)
        reached = counted + torch.from_numpy(table.reshape(-1, groups).cumsum(0))
        legal = widths.legal(torch.maximum(reached, floor))
        fit = int((flops.counts(legal) <= budget).sum())
        if fit:
            counted, best = reached[fit - 1], legal[fit - 1]
        low, high = min(low + fit * width, high - 1), min(low + (fit + 1) * width, high)
    return low, best


def _fill(
    opened: Tensor, first: int, floor: Tensor, ranking: Ranking, flops: FlopModel, widths: Widths, budget: int
) -> Tensor:
    """Open further channels, best first, as long as those of any group still fit; return the counts."""
    limit = ranking.limit
    before = np.bincount(ranking.group[:first], minlength=len(limit))
    ahead = ranking.start[:-1] + np.maximum(before, floor.numpy())  # the next channel of every group, in `places`
    left = ahead < ranking.start[1:]
    gap = budget - flops.count(opened)
    while True:
        cost = widths.costs(opened, flops)
        left &= cost <= gap
        if not left.any():
            return opened
        candidates = np.flatnonzero(left)
        group = int(candidates[ranking.places[ahead[candidates]].argmin()])
        more = widths.wider(opened, group)
        rise = cost[group] if opened[group] else flops.count(more) - budget + gap  # exact but for whole blocks
        if rise <= gap and bool((more <= limit).all()):
            opened, gap = more, gap - int(rise)
            ahead[group] += 1
            left[group] = ahead[group] < ranking.start[group + 1]
        else:  # and it will not fit later
            left[group] = False
