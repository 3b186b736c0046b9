"""L2 norm of filters: the other norm of Li et al. (ICLR 2017, arXiv 1608.08710)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, uniform


@dataclass(frozen=True)
class L2(GlidingGates):
    """Keep channels whose filters have the largest L2 norm, and the same fraction of every group.

    The score of channel c is `s_c = sqrt(sum W_c^2)` over the weights of the filter that makes it.

    Source: the usual variant of Pruning Filters for Efficient ConvNets (Li et al., ICLR 2017, arXiv 1608.08710); it is
    also the norm of soft filter pruning and of the geometric median. Own: the filters of all convs that write a channel
    of a residual stream count together, and so does a depthwise filter behind them; norms are compared again at every
    choice.
    """

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by the L2 norm of what writes them."""
        return uniform(by_channel(context, "writes").sqrt(), context)
