"""Filters that repeat another one: after functionality-oriented filter pruning (Qin et al., arXiv 1810.07322)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import matrices, uniform


@dataclass(frozen=True)
class Repetition(GlidingGates):
    """Keep channels whose filters do what no larger filter of the group does, and the same fraction of every group.

    The score of filter i is `||W_i||_2 (1 - max_j |cos(W_i, W_j)|)` over the filters j of the group with a larger norm;
    that of the largest is its norm.

    Source: the idea that filters of one function are redundant is that of functionality-oriented pruning (Qin et al.,
    arXiv 1810.07322 and 1811.02639). Own: everything else, since the formulas of these papers could not be read. There,
    functions are pictures that maximize activations, clustered by their looks; here, filters are compared by their
    weights.
    """

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by norm and novelty of their filters."""
        score = torch.zeros(len(context.gate_param), dtype=torch.float32)
        for channels, filters in matrices(context, "writes"):
            norm = filters.norm(dim=1)
            order = norm.argsort(descending=True, stable=True)
            unit = F.normalize(filters[order], dim=1)
            similarity = (unit @ unit.T).abs().tril(-1).amax(1).clamp_max(1)  # to those that come before
            score[channels[order.cpu()]] = (norm[order] * (1 - similarity)).cpu()
        return uniform(score, context)
