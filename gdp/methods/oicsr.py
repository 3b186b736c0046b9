"""OICSR: group lasso over a filter together with what the next layers read of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, globally
from gdp.methods.weights_of_channels import channel_norms


@dataclass(frozen=True)
class OICSR(GlidingGates):
    """Train with `strength * sum_c ||W_c||_2`, where W_c is all that writes and reads a channel; keep by its energy.

    The energy is `||W_c||_2^2`, compared over all layers. In a residual stream W_c is the filters of all layers that
    write the channel and the slices of all that read it, so the group is exactly what goes with the channel.

    Attributes:
        strength: of the group lasso.

    Source: Li et al., OICSR: Out-In-Channel Sparsity Regularization for Compact Deep Neural Networks, CVPR 2019, arXiv
    1905.11664: the out-in-channel groups, group lasso on them, global greedy choice by energy. Its formulas could not
    be read, only what others say of them. Own: the strength of 1e-4, and the budget's schedule in place of rounds that
    take at most half of a layer.

    Raises:
        GDPError: an option is out of range.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength >= 0:
            raise GDPError(f"Expected strength of at least 0, but got {self.strength}.")

    def penalty(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the group lasso."""
        return self.strength * channel_norms(context, "writes", "reads").sum()

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the energy of the out-in-channel group, to be compared over all groups."""
        return globally(by_channel(context, "writes") + by_channel(context, "reads"), context)
