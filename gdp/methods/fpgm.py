"""Filters near the geometric median of their layer (He et al., CVPR 2019, arXiv 1811.00250)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import matrices, uniform


@dataclass(frozen=True)
class FPGM(GlidingGates):
    """Keep channels whose filters are far from all others of the group, and the same fraction of every group.

    The score of filter i is `sum_j ||W_i - W_j||_2` over the filters that may stay: those near the geometric median are
    the ones that others can stand in for. With `rate_norm` below 1, filters of small L2 norm go before (the paper's
    "mix").

    Attributes:
        rate_norm: the fraction of every group, the filters of the largest L2 norms, that is judged by distances from
            each other, in (0, 1]; the others go first. The authors' runs have 1 ("FPGM-only") and 0.7 ("mix": of 40 %
            that go, 30 go by norms and 10 by distances).

    Source: Filter Pruning via Geometric Median (He et al., CVPR 2019, arXiv 1811.00250). Own: filters that are chosen
    to go close with their gates, instead of being set to zero once per epoch; the filters of all convs that write a
    channel of a residual stream are one, side by side.

    Raises:
        GDPError: an option is out of range.
    """

    rate_norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate_norm <= 1:
            raise GDPError(f"Expected rate_norm in (0, 1], but got {self.rate_norm}.")

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by the distances of their filters."""
        score = torch.zeros(len(context.gate_param), dtype=torch.float32)
        sizes = context.cost.sizes.tolist()
        for channels, filters in matrices(context, "writes"):
            norm = filters.norm(dim=1)
            order = norm.argsort(stable=True)
            by_norm = max(0, len(channels) - math.ceil(self.rate_norm * sizes[int(context.group_of[channels[0]])]))
            small, large = order[:by_norm].cpu(), order[by_norm:].cpu()
            score[channels[small]] = (norm - norm.max() - 1).cpu()[small]  # below 0, from the smallest norm on
            score[channels[large]] = torch.cdist(filters[large], filters[large]).sum(1).cpu()
        return uniform(score, context)
