"""Soft filter pruning: filters are set to zero again and again while they go on training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Role
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.hard_gates import HardGates
from gdp.methods.helpers import uniform
from gdp.methods.weights_of_channels import filter_factors, filter_norms


@dataclass(frozen=True)
class SFP(HardGates):
    """Set the filters of smallest L2 norm to zero in every round, and let them train on; close them when it is over.

    The same share of every group goes. Gates stay open until the window ends, so a filter that grows again may stay.
    Where a norm follows, its gamma is set to zero instead, and the L2 norm is that of the filter times |gamma|.

    Attributes:
        rounds: how often filters are set to zero, evenly over the window.

    Source: He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018, arXiv
    1808.06866, algorithm 1. Own: gamma in place of the filter, since the gradient of a filter of zeros in front of a
    batch norm is so large that it is among the largest after a step, unless the learning rate is small; rounds of equal
    length in place of epochs, which a method does not know; the share follows the budget's schedule, as in asymptotic
    soft filter pruning (arXiv 1808.07471), instead of being the same from the first round on.

    Raises:
        GDPError: an option is out of range.
    """

    rounds: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise GDPError(f"Expected at least 1 round, but got {self.rounds}.")

    def factors(self, state: MethodState, context: StepContext) -> dict[Role, Tensor] | None:
        """Return 0 for filters that were not chosen when a round begins."""
        if context.keep_mask is None or not context.window.begins_round(context.steps, self.rounds):
            return None
        return filter_factors(context, context.keep_mask.to(context.gate_param))

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return what takes the same share of every group, by the L2 norm of filters."""
        return uniform(filter_norms(context), context)
