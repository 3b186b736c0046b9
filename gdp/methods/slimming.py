"""Network Slimming: an L1 penalty on the scales of batch norms, whose size says which channels matter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, globally
from gdp.methods.weights_of_channels import mean_scales


@dataclass(frozen=True)
class Slimming(GlidingGates):
    """Train with `strength * sum |gamma|` over the scales of norms, and keep channels by |gamma|, over all layers.

    The sum is over the gammas of channels that can be pruned. A channel of a residual stream has several; their mean
    counts. Where no norm follows, channels go last. The penalty acts from the first step until the window ends, so a
    late window (`start`) gives it more time.

    Attributes:
        strength: s of the paper, 1e-4 for CIFAR.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, arXiv 1708.06519,
    equation 1; a global threshold on |gamma|. The paper trains with gamma that begins at 0.5, which is the user's.
    Own: the mean over several norms, gates that glide while training goes on, and a budget instead of the threshold.

    Raises:
        GDPError: an option is out of range.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength >= 0:
            raise GDPError(f"Expected strength of at least 0, but got {self.strength}.")

    def penalty(self, state: MethodState, context: StepContext) -> Tensor:
        """Return `s * sum |gamma|`."""
        return self.strength * by_channel(context, "scales", torch.abs).sum()

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the mean of |gamma| over the norms of a channel, to be compared over all groups.

        Raises:
            GDPError: the network has no norms.
        """
        return globally(mean_scales(context, "Slimming"), context)
