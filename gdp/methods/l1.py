"""L1 norm of filters (Li et al., ICLR 2017, arXiv 1608.08710)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, uniform


@dataclass(frozen=True)
class L1(GlidingGates):
    """Keep channels whose filters have the largest L1 norm, and the same fraction of every group.

    The score of channel c is `s_c = sum |W_c|` over the weights of the filter that makes it.

    Source: Pruning Filters for Efficient ConvNets (Li et al., ICLR 2017, arXiv 1608.08710). It has no hyper-parameter
    but the rate per layer. Own: the filters of all convs that write a channel of a residual stream count together, and
    so does a depthwise filter behind them; norms are compared again at every choice instead of once in a trained
    network.
    """

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by the L1 norm of what writes them."""
        return uniform(by_channel(context, "writes", torch.abs), context)
