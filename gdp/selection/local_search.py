"""A few channels exchanged for others, where single ones are so dear that the target would be missed."""

from __future__ import annotations

from itertools import combinations_with_replacement, islice

import torch
from torch import Tensor

from gdp.graph import FlopModel
from gdp.selection.constraints import WidthConstraints

MAX_CANDIDATES = 30_000  # count vectors that are tried at most


def refine(
    open_counts: Tensor,
    floor: Tensor,
    limit: Tensor,
    importance_of_first: Tensor,
    flops: FlopModel,
    widths: WidthConstraints,
    budget: int,
    slack: int,
) -> Tensor:
    """The worthiest open counts that use the budget up to the slack, or as far as channels of this size allow.

    Within a group the channels come in a fixed order, so counts say it all.

    Args:
        limit: open channels of every group.
        worth_of_first: what the first k channels of every group are worth, shape (groups, largest k + 1).
    """
    levels = widths.levels(floor, limit)
    table = torch.zeros(len(levels), max(map(len, levels)), dtype=torch.long)
    for g, values in enumerate(levels):
        table[g, : len(values)] = torch.tensor(values)
    last = torch.tensor([len(values) - 1 for values in levels])
    place = torch.tensor([values.index(n) for values, n in zip(levels, open_counts.tolist(), strict=True)])
    few = (last + 1).double().prod() <= MAX_CANDIDATES
    near = _all_places(last) if few else torch.cat([place[None], _neighbours(place, last)])
    near = table.gather(1, near.T).T
    near = near[widths.branches_consistent(near)]
    cost = flops.counts(near)
    near, cost = near[cost <= budget], cost[cost <= budget]
    if len(near) == 0:  # not even the floor fits
        return open_counts
    near = near[cost >= min(budget - slack, int(cost.max()))]
    return near[importance_of_first.gather(1, near.T).sum(0).argmax()]


def _all_places(last: Tensor) -> Tensor:
    """Every vector of levels from 0 to `last`, shape (vectors, groups)."""
    return torch.cartesian_prod(*[torch.arange(n + 1) for n in last.tolist()]).view(-1, len(last))


def _neighbours(place: Tensor, last: Tensor) -> Tensor:
    """Levels two to four moves away from `place`, shape (vectors, groups)."""
    signed = range(2 * len(place))  # one level less, or one more, of every group
    near = []
    for size in (2, 3, 4):
        moves = torch.tensor(list(islice(combinations_with_replacement(signed, size), MAX_CANDIDATES // 3)))
        change = torch.zeros(len(moves), len(signed), dtype=torch.long).scatter_add_(1, moves, torch.ones_like(moves))
        less, more = change.chunk(2, 1)
        near.append(place + more - less)
    found = torch.cat(near)
    return found[((found >= 0) & (found <= last)).all(1)]
