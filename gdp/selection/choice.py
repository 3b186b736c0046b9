"""Which channels stay open now, such that the target can still be met exactly in the end."""

from __future__ import annotations

import math

from torch import Tensor

from gdp.graph import FlopModel
from gdp.selection import Ranking, Selection, select_channels
from gdp.widths import Widths

TOLERANCE = 0.01  # what remains lies in [target - TOLERANCE, target], if channels are small enough for that
GUARD = 0.1  # the fraction of its channels that every group keeps, unless the target is out of reach then


def choose(
    worth: Tensor, group_of: Tensor, alive: Tensor, cost: FlopModel, widths: Widths, target: float, allowed: float
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
    ranking = Ranking.of(worth, group_of, alive, cost)
    guarded = widths.guarded(GUARD)
    floor = guarded if cost.count(guarded) <= final else None
    chosen = select_channels(ranking, cost, final, widths, floor, slack)
    return select_channels(ranking, cost, budget, widths, chosen.opened) if budget > final else chosen
