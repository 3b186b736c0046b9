"""Gradually hard filter pruning: from filters that are only weakened to filters that are gone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.gates import Role
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.helpers import percentiles
from gdp.methods.sfp import SFP
from gdp.methods.weights_of_channels import filter_factors, filter_norms


@dataclass(frozen=True)
class GHFP(SFP):
    """Close a growing share of the filters that do not fit for good, and weaken the others, in every round.

    With progress p of the window, the share p of the channels that were not chosen is closed, those with the smallest
    L2 norms within their groups first; the filters of the others are multiplied with 1 - p (the gamma of the norms
    behind them, if there are any), and may be chosen again.

    Attributes:
        rounds: how often filters are closed and weakened, evenly over the window.

    Source: Cai et al., GHFP: Gradually Hard Filter Pruning, arXiv 2011.03170: from soft to hard pruning by and by; and
    Softer Pruning, Incremental Regularization, arXiv 2010.09498: weights decay by a factor that falls. Own: everything
    else; only the abstracts could be read, so both the share and the factor are linear here.

    Raises:
        GDPError: an option is out of range.
    """

    def factors(self, state: MethodState, context: StepContext) -> dict[Role, Tensor] | None:
        """Return 1 - p for filters that were not chosen when a round begins."""
        if context.keep_mask is None or not context.window.begins_round(context.steps, self.rounds):
            return None
        return filter_factors(context, torch.where(context.keep_mask, 1.0, 1.0 - context.progress))

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x with the share p of what was not chosen closed when a round begins."""
        if not context.window.begins_round(context.steps, self.rounds):
            return context.gate_param
        going = (~context.chosen & context.is_there).cpu()
        closed = (going & ~context.is_open.cpu()).sum()
        more = max(0, round(context.progress * int(going.sum())) - int(closed))
        share = percentiles(filter_norms(context), context)
        weakest = torch.where(going & context.is_open.cpu(), share, torch.inf).argsort(stable=True)[:more]
        return context.gate_param.index_fill(0, weakest.to(context.gate_param.device), 0.0)
