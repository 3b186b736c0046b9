"""Sparse group lasso with l0: whole filters and single weights are driven to 0 at once, by variable splitting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState, anneal
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, globally
from gdp.methods.weights_of_channels import channel_norms, entry_counts


@dataclass(frozen=True)
class SGL(GlidingGates):
    """Train with `strength * (sum_c sqrt(n_c) ||W_c||_2 + ||W||_0)`, and keep channels by the mean |weight|.

    W_c is the filter that writes a channel, of n_c weights. The l0 norm is split off: the penalty is
    `beta / 2 * ||W - U||^2` with `U = hardshrink(W, sqrt(2 strength / beta))`, the minimum over U of
    `strength * ||U||_0 + beta / 2 ||W - U||^2`. Weights below the threshold are drawn to 0, the others left alone.

    Attributes:
        strength: lambda of the paper.
        beta: at the first step, and at the end of the window; geometric in between.

    Source: Bui et al., Structured Sparsity of Convolutional Neural Networks via Nonconvex Sparse Group Regularization,
    Frontiers in Applied Mathematics and Statistics 6, 2021, doi 10.3389/fams.2020.529564; lambda = 1e-3 and beta = 0.04
    are those of their code for a wide ResNet, where beta grows by 1.25 per epoch, and a filter is dead if its mean
    |weight| is below 1e-5. Own: a method knows steps instead of epochs, so the growth of 25 epochs (0.04 to about 10)
    is spread over the steps until the window ends; U is computed of the weights of the moment instead of being stored;
    filters of all layers that write a channel are one group.

    Raises:
        GDPError: an option is out of range.
    """

    strength: float = 1e-3
    beta: tuple[float, float] = (0.04, 10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength >= 0 or not 0 < self.beta[0] <= self.beta[1]:
            raise GDPError(
                "Expected strength of at least 0 and 0 < beta start <= beta end, but got "
                f"{self.strength} and {self.beta}."
            )

    def penalty(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the group lasso, and the distance from the nearest sparse weights."""
        beta = anneal(*self.beta, context.steps / context.window.end)
        threshold = (2 * self.strength / beta) ** 0.5

        def distance(weight: Tensor) -> Tensor:
            return (weight - torch.nn.functional.hardshrink(weight, threshold)).float().square()

        lasso = (entry_counts(context, "writes").sqrt() * channel_norms(context, "writes")).sum()
        return self.strength * lasso + beta / 2 * by_channel(context, "writes", distance).sum()

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the mean |weight| of a channel's filters, to be compared over all groups."""
        counts = entry_counts(context, "writes").clamp_min(1)
        return globally(by_channel(context, "writes", torch.abs) / counts, context)
