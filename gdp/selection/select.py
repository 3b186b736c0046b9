"""Select the channels of highest importance per FLOP that fit into a number of FLOPs."""

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

TOLERANCE = 0.01  # what remains lies in [target - TOLERANCE, target], if channels are small enough for that
# Fraction of its channels that every group keeps, unless the target is out of reach then. Runs on the digits and of
# ResNet-20 (docs/method.md) left single channels in a group without it.
MIN_GROUP_FRACTION = 0.1
BISECTION_PARTS = 32  # parts that a stretch of the ranking is cut into per step of the bisection
MAX_RUN = 4096  # channels that are opened at once at most, when what is left of the budget is filled
MAX_EXPENSIVE_GROUPS = 8  # groups of expensive channels for which one more channel is tried


@dataclass(frozen=True)
class Selection:
    """Channels that fit into a number of FLOPs.

    Attributes:
        keep_mask: True for channels that are kept, shape (channels of all groups,).
        open_counts: how many channels of every group are kept, shape (groups,), int64.
        lagrange_multiplier: lambda, the importance per FLOP that a channel needs in order to stay; 0 if all fit.
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
    """Return the channels with the highest importance per FLOP that fit into the budget.

    The Lagrange multiplier lambda of `max sum_kept importance - lambda * FLOPs` is found by bisection on counts, since
    FLOPs fall monotonically as it grows. What the bisection leaves unused is filled with the best channels that still
    fit.

    Args:
        ranking: the channels in the order of their importance per FLOP.
        flops: the FLOPs as a function of open counts.
        budget: FLOPs that may remain.
        widths: the legal open counts.
        floor: legal open counts that every group keeps at least, shape (groups,), int64; default: those of the smallest
            network.
        slack: FLOPs of the budget that may be left unused; where single channels are so expensive that more would be, a
            few are exchanged for others. Default: any number.
    """
    limit = ranking.limit
    floor = torch.minimum(widths.smallest if floor is None else floor, limit)
    open_counts, lagrange_multiplier = _bisect_and_fill(ranking, flops, budget, widths, floor)
    if slack is not None and flops.count(open_counts) < budget - slack and not torch.equal(open_counts, limit):
        open_counts = _use_up_budget(open_counts, floor, ranking, flops, widths, budget, slack)
    return Selection(ranking.keep_mask(open_counts), open_counts, lagrange_multiplier)


def _bisect_and_fill(
    ranking: Ranking, flops: FlopModel, budget: int, widths: WidthConstraints, floor: Tensor
) -> tuple[Tensor, float]:
    """Return the open counts that spend the budget, and the importance per FLOP of the first channel beyond it.

    Args:
        ranking: the channels in the order of their importance per FLOP.
        flops: the FLOPs as a function of open counts.
        budget: FLOPs that may remain.
        widths: the legal open counts.
        floor: smallest open counts, shape (groups,), int64.
    """
    first, open_counts = _bisect(ranking, flops, budget, widths, floor)
    lagrange_multiplier = float(ranking.ratio[first]) if first < len(ranking.ratio) else 0.0
    return _fill(open_counts, first, floor, ranking, flops, widths, budget), lagrange_multiplier


def _bisect(
    ranking: Ranking, flops: FlopModel, budget: int, widths: WidthConstraints, floor: Tensor
) -> tuple[int, Tensor]:
    """Return how many of the first channels fit into the budget beside the floor, and the legal counts they make.

    Each step tries the ends of all 32 parts of what is in question; the counts at these ends are one table.

    Args:
        ranking: the channels in the order of their importance per FLOP.
        flops: the FLOPs as a function of open counts.
        budget: FLOPs that may remain.
        widths: the legal open counts.
        floor: smallest open counts, shape (groups,), int64.

    Returns:
        Number of channels, and open counts, shape (groups,), int64; those of the floor if nothing fits beside it.
    """
    # the first `low` channels fit (if the floor does), the first `high` do not
    groups, low, high = len(floor), 0, len(ranking.group) + 1
    counts_at_low, best = torch.zeros(groups, dtype=torch.long), widths.round_down(floor)
    while high - low > 1:
        # channels per group up to the end of every part, shape (parts, groups)
        width = -(-(high - low - 1) // BISECTION_PARTS)
        inside = ranking.group[low : high - 1]
        part = np.arange(len(inside)) // width
        table = np.bincount(part * groups + inside, minlength=(int(part[-1]) + 1) * groups)
        counts_at_ends = counts_at_low + torch.from_numpy(table.reshape(-1, groups).cumsum(0))

        # go on between the last end that fits and the first that does not
        legal = widths.round_down(torch.maximum(counts_at_ends, floor))
        fit = int((flops.counts(legal) <= budget).sum())
        if fit:
            counts_at_low, best = counts_at_ends[fit - 1], legal[fit - 1]
        low, high = min(low + fit * width, high - 1), min(low + (fit + 1) * width, high)
    return low, best


def _fill(
    open_counts: Tensor,
    first: int,
    floor: Tensor,
    ranking: Ranking,
    flops: FlopModel,
    widths: WidthConstraints,
    budget: int,
) -> Tensor:
    """Open further channels in the order of the ranking as long as those of any group still fit.

    Args:
        open_counts: legal open counts to begin with, shape (groups,), int64.
        first: number of channels at the top of the ranking that are open already.
        floor: smallest open counts, shape (groups,), int64.
        ranking: the channels in the order of their importance per FLOP.
        flops: the FLOPs as a function of open counts.
        widths: the legal open counts.
        budget: FLOPs that may remain.

    Returns:
        Open counts, shape (groups,), int64.
    """
    limit, groups = ranking.limit, len(floor)
    before = np.bincount(ranking.group[:first], minlength=groups)
    ahead = ranking.start[:-1] + np.maximum(before, floor.numpy())  # the next channel of every group, in `places`
    candidate = ahead < ranking.start[1:]  # groups that may still get channels
    while True:
        # the best channel among those that are next in their group and may fit
        candidate &= widths.step_costs(open_counts, flops) <= budget - flops.count(open_counts)
        if not candidate.any():
            return open_counts
        following = np.full(groups, len(ranking.group))
        following[candidate] = ranking.places[ahead[candidate]]
        position = int(following.min())
        group = int(ranking.group[position])

        # counts with the next 1, 2, 4, ... channels, or with a removed residual branch back as a whole
        if open_counts[group] == 0:
            wider, taken = widths.next_width(open_counts, group)[None], np.eye(groups, dtype=np.int64)[[group]]
        else:
            taken = _runs(ranking, position, following, open_counts, groups)
            wider = widths.widths_after(open_counts, torch.from_numpy(taken))

        # take as many as fit; a group whose next channel does not fit now will not fit later either
        fit = int(((flops.counts(wider) <= budget) & (wider <= limit).all(1)).sum())
        if fit:
            open_counts, ahead = wider[fit - 1], ahead + taken[fit - 1]
            candidate &= ahead < ranking.start[1:]
        else:
            candidate[group] = False


def _runs(ranking: Ranking, position: int, following: np.ndarray, open_counts: Tensor, groups: int) -> np.ndarray:
    """Return the channels per group among the next 1, 2, 4, ... channels that may be opened.

    Args:
        ranking: the channels in the order of their importance per FLOP.
        position: of the next channel in the ranking.
        following: position of the next channel of every group, shape (groups,); beyond the end for groups that get no
            more.
        open_counts: legal open counts, shape (groups,), int64.
        groups: their number.

    Returns:
        Channels per group in every run, shape (runs, groups).
    """
    # the groups of the next channels, up to the first of a removed residual branch
    queue = ranking.group[position : position + MAX_RUN]
    queue = queue[np.arange(position, position + len(queue)) >= following[queue]]
    queue = queue[: int(np.argmax(np.append(open_counts.numpy()[queue] == 0, True)))]

    # a run ends after 1, 2, 4, ... of them; the last after all
    ends = np.unique(np.minimum(2 ** np.arange(MAX_RUN.bit_length()), len(queue)))
    run = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    return np.bincount(run * groups + queue, minlength=len(ends) * groups).reshape(-1, groups).cumsum(0)


def _use_up_budget(
    open_counts: Tensor,
    floor: Tensor,
    ranking: Ranking,
    flops: FlopModel,
    widths: WidthConstraints,
    budget: int,
    slack: int,
) -> Tensor:
    """Return open counts that use the budget up to the slack, where single channels cost more than the slack.

    One more channel of an expensive group is opened at the cost of cheaper ones, or else a few channels are exchanged.

    Args:
        open_counts: legal open counts to begin with, shape (groups,), int64.
        floor: smallest open counts, shape (groups,), int64.
        ranking: the channels in the order of their importance per FLOP.
        flops: the FLOPs as a function of open counts.
        widths: the legal open counts.
        budget: FLOPs that may remain.
        slack: FLOPs of the budget that may be left unused.

    Returns:
        Open counts, shape (groups,), int64; the slack is missed if channels of this size allow nothing better.
    """
    # small networks: every vector of counts can be tried
    limit, importance = ranking.limit, ranking.importance_of_first()
    if (limit + 1).double().prod() <= MAX_CANDIDATES:
        return refine(open_counts, floor, limit, importance, flops, widths, budget, slack)

    # one more channel in each of some expensive groups, and what fits beside it
    may_grow = ((open_counts > 0) & (open_counts < limit)).numpy()
    expensive = np.flatnonzero((widths.step_costs(open_counts, flops) > slack) & may_grow)[:MAX_EXPENSIVE_GROUPS]
    found = []
    for group in expensive.tolist():
        least = floor.clone()
        least[group] = widths.next_width(open_counts, group)[group]
        if flops.count(least) <= budget:
            found.append(_bisect_and_fill(ranking, flops, budget, widths, least)[0])

    # the one of highest importance among those that use the budget up to the slack
    close = [counts for counts in found if flops.count(counts) >= budget - slack]
    if not close:
        return refine(open_counts, floor, limit, importance, flops, widths, budget, slack)
    return max(close, key=lambda counts: float(importance.gather(1, counts[:, None]).sum()))


def select_for_schedule(
    importance: Tensor,
    group_of: Tensor,
    is_open: Tensor,
    cost: FlopModel,
    widths: WidthConstraints,
    target: float,
    allowed: float,
) -> Selection:
    """Return the channels that fit into what is allowed now; those that fit into the target are always among them.

    Args:
        importance: what the loss would suffer without each channel, not negative, in any unit, shape (channels of all
            groups,), on the CPU.
        group_of: index of the group of every channel, shape (channels of all groups,).
        is_open: False for channels that are closed for good, shape (channels of all groups,).
        cost: the FLOPs (or time) as a function of open counts.
        widths: the legal open counts.
        target: fraction of the dense FLOPs that remains in the end, in (0, 1].
        allowed: fraction of the dense FLOPs that may remain now, in (0, 1].
    """
    target_budget, budget = int(target * cost.dense), int(allowed * cost.dense)
    slack = target_budget - math.ceil((target - TOLERANCE) * cost.dense)
    ranking = Ranking.of(importance, group_of, is_open, cost)

    # for the target; no group falls below a tenth of its channels if the target can be met so
    guarded = widths.with_min_fraction(MIN_GROUP_FRACTION)
    floor = guarded if cost.count(guarded) <= target_budget else None
    selection = select_channels(ranking, cost, target_budget, widths, floor, slack)

    # for what is allowed now, on top of that
    return (
        select_channels(ranking, cost, budget, widths, selection.open_counts) if budget > target_budget else selection
    )
