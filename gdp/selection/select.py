"""Which channels stay open for a number of FLOPs: the worthiest per FLOP, found by bisection and filled up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdp.graph import FlopModel
from gdp.selection.constraints import WidthConstraints
from gdp.selection.local_search import MAX_CANDIDATES, refine
from gdp.selection.ranking import Ranking

BISECTION_PARTS = 32  # borders that are tried at once
MAX_RUN = 4096  # channels that are filled in at once at most
MAX_EXPENSIVE_GROUPS = 8  # groups of dear channels of which one more is tried


@dataclass(frozen=True)
class Selection:
    """Which channels stay open under an allowance.

    Attributes:
        keep: one bool per channel of all groups, shape (channels,).
        opened: how many channels of every group are kept, shape (groups,).
        multiplier: lambda, the worth per FLOP that a channel needs in order to stay.
    """

    keep_mask: Tensor
    open_counts: Tensor
    lagrange_multiplier: float


def select_channels(
    ranking: Ranking,
    flops: FlopModel,
    budget: int,
    widths: WidthConstraints,
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
    limit = ranking.limit
    floor = torch.minimum(widths.smallest if floor is None else floor, limit)
    opened, multiplier = _filled(ranking, flops, budget, widths, floor)
    if slack is not None and flops.count(opened) < budget - slack and not torch.equal(opened, limit):
        opened = _use_up_budget(opened, floor, ranking, flops, widths, budget, slack)
    return Selection(ranking.keep_mask(opened), opened, multiplier)


def _filled(
    ranking: Ranking, flops: FlopModel, budget: int, widths: WidthConstraints, floor: Tensor
) -> tuple[Tensor, float]:
    """The counts that fit beside the floor, and the ratio at which the budget was spent."""
    first, opened = _bisect(ranking, flops, budget, widths, floor)
    multiplier = float(ranking.ratio[first]) if first < len(ranking.ratio) else 0.0
    return _fill(opened, first, floor, ranking, flops, widths, budget), multiplier


def _bisect(
    ranking: Ranking, flops: FlopModel, budget: int, widths: WidthConstraints, floor: Tensor
) -> tuple[int, Tensor]:
    """How many of the first channels fit into the budget beside the floor, and the legal counts they make.

    A bisection in 32 parts at once: the counts at all the borders are one table.
    """
    groups, low, high = len(floor), 0, len(ranking.group) + 1
    counted, best = torch.zeros(groups, dtype=torch.long), widths.round_down(floor)
    while high - low > 1:
        width = -(-(high - low - 1) // BISECTION_PARTS)
        inside = ranking.group[low : high - 1]
        part = np.arange(len(inside)) // width
        table = np.bincount(part * groups + inside, minlength=(int(part[-1]) + 1) * groups)
        reached = counted + torch.from_numpy(table.reshape(-1, groups).cumsum(0))
        legal = widths.round_down(torch.maximum(reached, floor))
        fit = int((flops.counts(legal) <= budget).sum())
        if fit:
            counted, best = reached[fit - 1], legal[fit - 1]
        low, high = min(low + fit * width, high - 1), min(low + (fit + 1) * width, high)
    return low, best


def _fill(
    opened: Tensor, first: int, floor: Tensor, ranking: Ranking, flops: FlopModel, widths: WidthConstraints, budget: int
) -> Tensor:
    """Open further channels, best first, as long as those of any group still fit; return the counts."""
    limit, groups = ranking.limit, len(floor)
    before = np.bincount(ranking.group[:first], minlength=groups)
    ahead = ranking.start[:-1] + np.maximum(before, floor.numpy())  # the next channel of every group, in `places`
    left = ahead < ranking.start[1:]
    while True:
        left &= widths.step_costs(opened, flops) <= budget - flops.count(opened)
        if not left.any():
            return opened
        following = np.full(groups, len(ranking.group))
        following[left] = ranking.places[ahead[left]]
        place = int(following.min())
        group = int(ranking.group[place])
        if opened[group] == 0:  # a whole block comes back, or none of it
            more, taken = widths.next_width(opened, group)[None], np.eye(groups, dtype=np.int64)[[group]]
        else:
            taken = _runs(ranking, place, following, opened, groups)
            more = widths.widths_after(opened, torch.from_numpy(taken))
        fit = int(((flops.counts(more) <= budget) & (more <= limit).all(1)).sum())
        if fit:
            opened, ahead = more[fit - 1], ahead + taken[fit - 1]
            left &= ahead < ranking.start[1:]
        else:  # and it will not fit later
            left[group] = False


def _runs(ranking: Ranking, place: int, following: np.ndarray, opened: Tensor, groups: int) -> np.ndarray:
    """Channels per group in the first 1, 2, 4, ... of those that are next, shape (runs, groups)."""
    queue = ranking.group[place : place + MAX_RUN]
    queue = queue[np.arange(place, place + len(queue)) >= following[queue]]
    queue = queue[: int(np.argmax(np.append(opened.numpy()[queue] == 0, True)))]  # up to a block that has gone
    ends = np.unique(np.minimum(2 ** np.arange(MAX_RUN.bit_length()), len(queue)))
    run = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    return np.bincount(run * groups + queue, minlength=len(ends) * groups).reshape(-1, groups).cumsum(0)


def _use_up_budget(
    opened: Tensor, floor: Tensor, ranking: Ranking, flops: FlopModel, widths: WidthConstraints, budget: int, slack: int
) -> Tensor:
    """Counts that use the budget up to the slack: one more of a dear channel and fewer others, or a few exchanged."""
    limit, worth = ranking.limit, ranking.importance_of_first()
    if (limit + 1).double().prod() <= MAX_CANDIDATES:  # every vector of counts can be tried
        return refine(opened, floor, limit, worth, flops, widths, budget, slack)
    dear = np.flatnonzero((widths.step_costs(opened, flops) > slack) & ((opened > 0) & (opened < limit)).numpy())[
        :MAX_EXPENSIVE_GROUPS
    ]
    found = []
    for group in dear.tolist():
        least = floor.clone()
        least[group] = widths.next_width(opened, group)[group]
        if flops.count(least) <= budget:
            found.append(_filled(ranking, flops, budget, widths, least)[0])
    close = [counts for counts in found if flops.count(counts) >= budget - slack]
    if not close:
        return refine(opened, floor, limit, worth, flops, widths, budget, slack)
    return max(close, key=lambda counts: float(worth.gather(1, counts[:, None]).sum()))


TOLERANCE = 0.01  # what remains lies in [target - TOLERANCE, target], if channels are small enough for that


MIN_GROUP_FRACTION = 0.1  # the fraction of its channels that every group keeps, unless the target is out of reach then


def select_for_schedule(
    importance: Tensor,
    group_of: Tensor,
    is_open: Tensor,
    cost: FlopModel,
    widths: WidthConstraints,
    target: float,
    allowed: float,
) -> Selection:
    """Choose what fits into what is allowed now; what fits into the target is always part of it.

    Args:
        worth: what the loss would suffer without each channel, shape (channels of all groups,), not negative.
        group_of: group of every channel.
        alive: channels that are not closed for good.
        cost: the FLOPs as a function of open counts.
        widths: the counts that are legal.
        target: the fraction of the dense FLOPs that remains in the end.
        allowed: the fraction that may remain now.
    """
    final, budget = int(target * cost.dense), int(allowed * cost.dense)
    slack = final - math.ceil((target - TOLERANCE) * cost.dense)
    ranking = Ranking.of(importance, group_of, is_open, cost)
    guarded = widths.with_min_fraction(MIN_GROUP_FRACTION)
    floor = guarded if cost.count(guarded) <= final else None
    chosen = select_channels(ranking, cost, final, widths, floor, slack)
    return select_channels(ranking, cost, budget, widths, chosen.open_counts) if budget > final else chosen
