"""Polarization: a penalty that drives the scales of batch norms to 0 or to one value above it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Role
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import globally
from gdp.methods.weights_of_channels import mean_scales


@dataclass(frozen=True)
class Polarization(GlidingGates):
    """Train with `strength * (t sum |gamma| - sum |gamma - mean|)`, keep gamma in [0, largest], and channels by gamma.

    The mean is over the gammas of all layers, and learns along. gamma is clamped after every step. Of a channel with
    several norms (in a residual stream) all are divided by what is too much for the largest, and set to 0 if none is
    above 0, as one factor acts on a channel.

    Attributes:
        strength: lambda of the paper; 5e-5 for ResNet-56 on CIFAR-10, 3e-5 for VGG-16.
        t: what |gamma| weighs; 1.4 for ResNet-56, 1.5 for VGG-16.
        largest: gamma may be, above 0; twice what it is at first, as in the paper, if that is 1 as usual.

    Source: Zhuang et al., Neuron-level Structured Pruning using Polarization Regularizer, NeurIPS 2020, equation 2. The
    paper begins with gamma = 0.5, and clamps to [0, 1]. Own: twice of that, since norms begin with 1 and would all stay
    at a bound of 1; channels of several norms count by the mean of |gamma|; gates that glide while training goes on,
    and a budget instead of the threshold at the first minimum of a histogram.

    Raises:
        GDPError: an option is out of range.
    """

    strength: float = 5e-5
    t: float = 1.4
    largest: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.strength >= 0 and self.t >= 0):
            raise GDPError(f"Expected strength and t of at least 0, but got {self.strength} and {self.t}.")
        if not self.largest > 0:
            raise GDPError(f"Expected largest to be above 0, but got {self.largest}.")

    def penalty(self, state: MethodState, context: StepContext) -> Tensor | None:
        """Return `lambda * (t sum |gamma| - sum |gamma - mean|)`."""
        scales = context.tensors("scales")
        if not scales:
            return None
        gamma = torch.cat([tensor.parameter.flatten().float() for tensor in scales])
        may_go = torch.cat([tensor.channel for tensor in scales]) < len(context.gate_param)
        mean = (gamma * may_go).sum() / may_go.sum().clamp_min(1)
        return self.strength * ((self.t * gamma.abs() - (gamma - mean).abs()) * may_go).sum()

    def factors(self, state: MethodState, context: StepContext) -> dict[Role, Tensor]:
        """Return what brings gamma back into [0, largest]."""
        largest = context.gate_param.new_full((len(context.gate_param) + 1,), -torch.inf)
        for tensor in context.tensors("scales"):
            largest.scatter_reduce_(0, tensor.channel, tensor.parameter.detach().flatten().float(), "amax")
        return {"scales": torch.where(largest <= 0, 0.0, self.largest / largest.clamp_min(self.largest))[:-1]}

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the mean of |gamma| over the norms of a channel, to be compared over all groups.

        Raises:
            GDPError: the network has no norms.
        """
        return globally(mean_scales(context, "Polarization"), context)
