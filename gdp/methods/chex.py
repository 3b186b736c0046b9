"""Prune and regrow channels: CHEX (Hou et al., CVPR 2022, arXiv 2203.15794)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import CLOSING_RATIO, GlidingGates
from gdp.methods.helpers import by_channel, globally, matrices, rank_match, relative
from gdp.methods.leverage import leverage, residual
from gdp.methods.weights_of_channels import entry_counts

MAX_FILTERS = 1024  # of a group that is judged by leverage; its cost grows with the third power


@dataclass(frozen=True)
class CHEX(GlidingGates):
    """Keep as many channels as norm scales say, those that span their filters best, and try others in between.

    How many: mean |gamma| over the norms of a channel, compared over all groups. Which: the leverage score
    `||U_k[i]||^2`, with U_k the first k left singular vectors of the filters (a row each), k the number that stays; the
    L1 norm where a filter has fewer weights than there are filters. A share `regrow (1 + cos(pi p)) / 2` of the places
    goes to others at progress p, drawn with the probabilities `softmax(||w - P w||)`, P being the projection on the
    filters that stay. Until the window ends every channel may come back.

    Attributes:
        regrow: the share at first, in [0, 1). The authors' runs on ImageNet have 0.3 at 1 GFLOP, else 0.2.
        rounds: channels are drawn anew so many times within the window, but gates have time to open in between. The
            authors draw every 2 of 180 epochs.

    Source: CHEX (Hou et al., CVPR 2022, arXiv 2203.15794), by its formulas as they are known from its code. Own: k is
    estimated from the target and gamma; regrown channels have places within the budget instead of beyond it, and come
    back with the filters that they had, but weights that read them were trained on, which CHEX restores; channels
    that several layers write, of residual streams above all, which CHEX leaves alone, and those of groups with more
    than 1024, go by the L1 norm and come back with equal probabilities; where no norm scales a group, the relative L1
    norm of its filters stands for gamma.

    Raises:
        GDPError: an option is out of range.
    """

    regrow: float = 0.3
    rounds: int = 90

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.regrow < 1 and isinstance(self.rounds, int) and self.rounds >= 1):
            raise GDPError(
                f"Expected regrow in [0, 1) and at least 1 of rounds, but got {self.regrow} and {self.rounds}."
            )

    @property
    def regrows(self) -> bool:
        """Whether a closed channel may be chosen again until the window ends."""
        return True

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x one step further towards 0 or 1; gates that come back need no longer to open than to close."""
        moved = super().step(state, context)
        return torch.where(context.chosen, moved.clamp_min(CLOSING_RATIO), moved)

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the scales, ordered within groups by leverage and lot, times the FLOPs of a channel."""
        norm = by_channel(context, "writes", torch.abs).detach()
        scales, count = by_channel(context, "scales", torch.abs).cpu().double(), entry_counts(context, "scales").cpu()
        how_many = torch.where(count > 0, scales / count.clamp_min(1), relative(norm, context))
        kept, lots, writers = _staying(how_many, context), self._lots(context), _writers(context)
        share = self.regrow * (1 + math.cos(math.pi * context.window.budget_progress(context.steps))) / 2

        which = norm.cpu().double()
        for channels, filters in matrices(context, "writes"):
            group = int(context.group_of[channels[0]])
            drawn = min(round(share * kept[group]), kept[group] - 1)
            spanned = writers[group] == 1 and len(filters) <= MAX_FILTERS
            gram = _inner_products(filters) if spanned else None
            order = _order(which[channels], lots[channels], gram, kept[group] - drawn, drawn, filters.shape[1])
            which[channels[order]] = torch.arange(len(order), 0, -1, dtype=torch.float64)
        return globally(rank_match(how_many, which, context), context)

    def _lots(self, context: StepContext) -> Tensor:
        """Return Gumbel noise, the same for all choices of a round: the largest of `log p + noise` is drawn by p."""
        window = context.window
        length = max(window.closing, (window.last_selection - window.start) // self.rounds)
        generator = torch.Generator().manual_seed(max(0, context.steps - window.start) // length)
        return -torch.rand(len(context.gate_param), dtype=torch.float64, generator=generator).log().neg().log()


def _inner_products(filters: Tensor) -> Tensor:
    exact = filters.cpu().double()
    return exact @ exact.T


def _order(norm: Tensor, lots: Tensor, gram: Tensor | None, kept: int, drawn: int, features: int) -> Tensor:
    """Return the channels of a group from the best on: those that stay, those that are drawn, and the rest.

    Args:
        norm: of their filters, shape (channels,).
        lots: Gumbel noise, of the same shape.
        gram: inner products of the filters, shape (channels, channels), float64; None if they go by their norm.
        kept: how many stay, by leverage or norm.
        drawn: how many are drawn out of the others.
        features: weights of a filter.
    """
    score = leverage(gram, kept) if gram is not None and len(gram) <= features else norm
    order = score.argsort(descending=True, stable=True)
    best, others = order[:kept], order[kept:]
    chance = lots[others] + (0.0 if gram is None else residual(gram, best, others))
    is_drawn = torch.zeros(len(others), dtype=torch.bool)
    is_drawn[chance.argsort(descending=True, stable=True)[:drawn]] = True
    return torch.cat([best, others[is_drawn], others[~is_drawn]])


def _staying(how_many: Tensor, context: StepContext) -> list[int]:
    """Return how many channels of every group stay in the end, roughly: those of the largest numbers.

    FLOPs fall with the product of two numbers of channels, so channels that carry the root of the target stay.

    Args:
        how_many: numbers that are compared between groups, shape (channels of all groups,).
        context: where the run is.
    """
    cost = torch.where(context.may_stay, context.marginal, 0.0)
    order = how_many.argsort(descending=True, stable=True)
    inside = order[cost[order].cumsum(0) <= context.target**0.5 * cost.sum()]
    stays = torch.zeros(len(cost), dtype=torch.long).index_fill(0, inside, 1) * context.may_stay
    counts = torch.zeros(len(context.gates.spans), dtype=torch.long).index_add(0, context.group_of, stays)
    return [max(1, count) for count in counts.tolist()]


def _writers(context: StepContext) -> list[int]:
    """Return how many weights write the channels of every group.

    Args:
        context: where the run is.
    """
    counts = [0] * len(context.gates.spans)
    for tensor in context.tensors("writes"):
        inside = tensor.channel.cpu()
        for group in context.group_of[inside[inside < len(context.group_of)]].unique().tolist():
            counts[group] += 1
    return counts
