"""What methods share: numbers and matrices per channel, and scores made comparable between groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gdp.gates import Role, channel_sums
from gdp.methods.context import StepContext


def by_channel(context: StepContext, role: Role, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return the sum of a function over all entries that a channel has in parameters, differentiable in these.

    Args:
        context: where the run is.
        role: of the parameters: "writes", "reads", "scales" or "shifts".
        function: makes numbers of the same shape of a parameter, element by element; default: squares.

    Returns:
        Sums, shape (channels of all groups,), float32; 0 for channels without an entry.
    """
    sums = channel_sums(context.tensors(role), len(context.gate_param), function)
    return sums.to(context.gate_param.device)


def matrices(context: StepContext, role: Role) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for every group that has parameters of a role the channels that may stay, and what these have in them.

    Args:
        context: where the run is.
        role: of the parameters.

    Yields:
        Numbers of the channels in vectors of all channels, shape (channels,); and their slices of all parameters, each
        flattened, side by side, shape (channels, features), float32, without a graph.
    """
    tensors, may_stay = context.tensors(role), context.may_stay
    asked = torch.cat([may_stay, torch.zeros(1, dtype=torch.bool)])
    for span in context.gates.spans.values():
        channels = span.start + torch.nonzero(may_stay[span]).flatten()
        parts = []
        for tensor in tensors:
            channel = tensor.channel.cpu()
            entries = torch.nonzero((channel >= span.start) & (channel < span.stop) & asked[channel]).flatten()
            if len(entries) == 0:
                continue
            order = channel[entries].argsort(stable=True)
            rows = tensor.parameter.detach().movedim(tensor.dim, 0)[entries[order]]
            parts.append(rows.reshape(len(channels), -1).float())
        if parts:
            yield channels, torch.cat(parts, 1)


def uniform(score: Tensor, context: StepContext, ties: Tensor | None = None) -> Tensor:
    """Return an importance by which the same fraction of every group goes, those with the lowest scores.

    It is the percentile of a channel within its group, times its FLOPs, since channels are compared per FLOP.

    Args:
        score: of every channel, in any unit, shape (channels of all groups,).
        context: where the run is.
        ties: another score, which orders channels whose first one is equal; default: as they lie in the group.

    Returns:
        Importance, shape (channels of all groups,), float64, on the CPU.
    """
    return percentiles(score, context, ties) * context.marginal


def percentiles(score: Tensor, context: StepContext, ties: Tensor | None = None) -> Tensor:
    """Return which share of the channels of its group that may stay each has behind it, itself included.

    Args:
        score: of every channel, in any unit, shape (channels of all groups,).
        context: where the run is.
        ties: another score, which orders channels whose first one is equal; default: as they lie in the group.

    Returns:
        Shares in [0, 1], shape (channels of all groups,), float64, on the CPU; 0 for channels that can't stay, NaN for
        those whose score is, which no order would show.
    """
    may_stay = context.may_stay
    place, counts = _places(score, ties, may_stay, context)
    share = (place + 1).double() / counts[context.group_of].clamp_min(1)
    return torch.where(may_stay, share.masked_fill(score.detach().cpu().isnan(), torch.nan), 0.0)


def globally(score: Tensor, context: StepContext) -> Tensor:
    """Return an importance by which channels with the lowest scores go, whatever group they are in.

    Args:
        score: of every channel, not negative, comparable between groups, shape (channels of all groups,).
        context: where the run is.

    Returns:
        Importance, shape (channels of all groups,), float64, on the CPU.
    """
    return score.detach().cpu().double() * context.marginal


def relative(score: Tensor, context: StepContext) -> Tensor:
    """Return a score in units of its mean over the channels of a group that may stay, so that groups can be compared.

    Args:
        score: of every channel, not negative, in any unit, shape (channels of all groups,).
        context: where the run is.

    Returns:
        Scores, shape (channels of all groups,), float64, on the CPU; 0 for channels that can't stay.
    """
    found = torch.where(context.may_stay, score.detach().cpu().double(), 0.0)
    total, count = (
        torch.zeros(len(context.gates.spans), dtype=torch.float64).index_add(0, context.group_of, numbers)
        for numbers in (found, context.may_stay.double())
    )
    return found * (count / total.clamp_min(1e-30))[context.group_of]


def rank_match(how_many: Tensor, which: Tensor, context: StepContext) -> Tensor:
    """Return scores in which one says how many channels of a group stay, another one which they are.

    The channel that is the j-th best of its group by `which` gets the j-th largest number that the group has in
    `how_many`.

    Args:
        how_many: numbers that are compared between groups, shape (channels of all groups,).
        which: numbers that are compared within groups, of the same shape.
        context: where the run is.

    Returns:
        Scores, shape (channels of all groups,), float64, on the CPU; 0 for channels that can't stay, NaN for those of
        which one of the numbers is.
    """
    may_stay = context.may_stay
    score = torch.zeros(len(may_stay), dtype=torch.float64)
    by_number, by_identity = (_order(numbers, None, may_stay, context) for numbers in (how_many, which))
    score[by_identity] = how_many.detach().cpu().double()[by_number]
    return score.masked_fill(which.detach().cpu().isnan() & may_stay, torch.nan)


def _order(numbers: Tensor, ties: Tensor | None, may_stay: Tensor, context: StepContext) -> Tensor:
    """Return the channels that may stay, group after group, within a group by rising numbers.

    Args:
        numbers: shape (channels of all groups,).
        ties: what orders equal numbers, of the same shape; None for their places.
        may_stay: one bool per channel of all groups.
        context: where the run is.
    """
    order = torch.arange(len(numbers))
    for criterion in (numbers,) if ties is None else (ties, numbers):
        order = order[criterion.detach().cpu().double()[order].argsort(stable=True)]
    order = order[context.group_of[order].argsort(stable=True)]
    return order[may_stay[order]]


def _places(numbers: Tensor, ties: Tensor | None, may_stay: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
    """Return the place of every channel among those of its group that may stay, from 0 for the lowest, and how many.

    Args:
        numbers: shape (channels of all groups,).
        ties: what orders equal numbers, of the same shape; None for their places.
        may_stay: one bool per channel of all groups.
        context: where the run is.

    Returns:
        Places, shape (channels of all groups,), and channels that may stay per group, shape (groups,).
    """
    counts = torch.zeros(len(context.gates.spans), dtype=torch.long)
    counts = counts.index_add(0, context.group_of, may_stay.long())
    order = _order(numbers, ties, may_stay, context)
    starts = counts.cumsum(0) - counts
    place = torch.zeros(len(may_stay), dtype=torch.long)
    place[order] = torch.arange(len(order)) - starts[context.group_of[order]]
    return place, counts
