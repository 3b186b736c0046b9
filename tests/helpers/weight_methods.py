"""Methods that act on weights, whose importance is the same everywhere, and what they do written out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdp.methods import GlidingGates, by_channel, channel_norms


@dataclass(frozen=True)
class Penalised(GlidingGates):
    """Group lasso on filters, and L1 on the scales of norms."""

    strength: float = 0.02

    def importance(self, state, context):
        return torch.ones_like(context.gate_param)

    def penalty(self, state, context):
        lasso = channel_norms(context, "writes").sum()
        return self.strength * (lasso + by_channel(context, "scales", torch.abs).sum()) if self.strength else None


@dataclass(frozen=True)
class Factored(Penalised):
    """Halve filters after every step."""

    strength: float = 0.0
    factor: float = 0.5

    def factors(self, state, context):
        return {"writes": torch.full_like(context.gate_param, self.factor)}


def by_hand(net: nn.Module, strength: float = Penalised.strength) -> Tensor:
    """The penalty of `Penalised` on a network all of whose convs and norms belong to channels that can go."""
    convs = [m._parameters["weight"] for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return strength * (sum(w.flatten(1).norm(dim=1).sum() for w in convs) + sum(w.abs().sum() for w in norms))
