"""Exchange a few channels for others, where single ones cost so much that the target would be missed."""

from __future__ import annotations

from itertools import combinations_with_replacement, islice

import torch
from torch import Tensor

from gdp.graph import FlopModel
from gdp.selection.constraints import WidthConstraints

MAX_CANDIDATES = 30_000  # vectors of open counts that are tried at most


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
    """Return the open counts of highest importance that use the budget up to the slack.

    All legal counts are tried if they are few, else those near `open_counts`. If none of them leaves less than the
    slack, those that leave least are chosen. Within a group channels are kept in a fixed order, the most important
    first, so that open counts say which channels are kept.

    Args:
        open_counts: legal open counts to begin with, shape (groups,), int64.
        floor: smallest open counts, shape (groups,).
        limit: largest open counts, shape (groups,).
        importance_of_first: importance of the first k channels of every group together, for k = 0, 1, ..., shape
            (groups, largest limit + 1).
        flops: the FLOPs as a function of open counts.
        widths: the legal open counts.
        budget: FLOPs that may remain.
        slack: FLOPs of the budget that may be left unused.

    Returns:
        Open counts, shape (groups,), int64.
    """
    # legal counts of every group in a table; a level is the place of a count in its row
    counts_of = widths.levels(floor, limit)
    table = torch.zeros(len(counts_of), max(map(len, counts_of)), dtype=torch.long)
    for g, values in enumerate(counts_of):
        table[g, : len(values)] = torch.tensor(values)
    last = torch.tensor([len(values) - 1 for values in counts_of])
    level = torch.tensor([values.index(n) for values, n in zip(counts_of, open_counts.tolist(), strict=True)])

    # candidates: all vectors of legal counts, or those near the present one
    few = (last + 1).double().prod() <= MAX_CANDIDATES
    candidate_levels = _all_levels(last) if few else torch.cat([level[None], _neighbours(level, last)])
    candidates = table.gather(1, candidate_levels.T).T
    candidates = candidates[widths.branches_consistent(candidates)]

    # of those that fit and leave no more than the slack, the one of highest importance
    cost = flops.counts(candidates)
    candidates, cost = candidates[cost <= budget], cost[cost <= budget]
    if len(candidates) == 0:  # not even the floor fits
        return open_counts
    candidates = candidates[cost >= min(budget - slack, int(cost.max()))]
    return candidates[importance_of_first.gather(1, candidates.T).sum(0).argmax()]


def _all_levels(last: Tensor) -> Tensor:
    """Return every vector of levels.

    Args:
        last: largest level of every group, shape (groups,).

    Returns:
        Levels from 0 to `last`, shape (vectors, groups).
    """
    return torch.cartesian_prod(*[torch.arange(n + 1) for n in last.tolist()]).view(-1, len(last))


def _neighbours(level: Tensor, last: Tensor) -> Tensor:
    """Return vectors of levels that are two to four moves away, a move being one level more or less in one group.

    Args:
        level: of every group, shape (groups,).
        last: largest level of every group, shape (groups,).

    Returns:
        Levels from 0 to `last`, shape (vectors, groups); at most MAX_CANDIDATES vectors.
    """
    moves = range(2 * len(level))  # one level less in every group, then one level more in every group
    near = []
    for length in (2, 3, 4):
        chosen = torch.tensor(list(islice(combinations_with_replacement(moves, length), MAX_CANDIDATES // 3)))
        change = torch.zeros(len(chosen), len(moves), dtype=torch.long).scatter_add_(1, chosen, torch.ones_like(chosen))
        less, more = change.chunk(2, 1)
        near.append(level + more - less)
    found = torch.cat(near)
    return found[((found >= 0) & (found <= last)).all(1)]
