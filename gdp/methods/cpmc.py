"""Weights, FLOPs and parameters together: after CPMC (Yan et al., arXiv 2011.03240)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import ROLES
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, relative
from gdp.methods.weights_of_channels import entry_counts


@dataclass(frozen=True)
class CPMC(GlidingGates):
    """Keep channels of large weights, those that read them included, for their FLOPs and parameters.

    A channel takes along its filter and its slice of every weight that reads it. Its score is the L1 norm of both, in
    units of the mean of its group; it is compared over all groups by `score / (FLOPs^a * parameters^b)`.

    Attributes:
        flops_power: a, in [0, 1]; 1 is the price that other methods pay.
        params_power: b, in [0, 1]; the parameters are all that go with the channel, as the network is now.

    Source: the three criteria (weights with their dependency, FLOPs, parameters), the global normalization and ranking
    of CPMC (Yan et al., arXiv 2011.03240), as its abstract names them. Own: all formulas and both powers, since the
    paper's could not be read.

    Raises:
        GDPError: an option is out of range.
    """

    flops_power: float = 0.5
    params_power: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.flops_power <= 1 and 0 <= self.params_power <= 1):
            raise GDPError(
                f"Expected flops_power and params_power in [0, 1], but got {self.flops_power} and {self.params_power}."
            )

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the score per price, times the FLOPs of a channel, as channels are compared per FLOP."""
        norm = by_channel(context, "writes", torch.abs) + by_channel(context, "reads", torch.abs)
        price = entry_counts(context, *ROLES).cpu().double().clamp_min(1) ** self.params_power
        return relative(norm, context) * context.marginal ** (1 - self.flops_power) / price
