"""HESSO, the method of OTO v3: five saliences, periods, and weights that fall to exactly zero in a straight line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.hard_gates import HardGates
from gdp.methods.helpers import by_channel, globally
from gdp.methods.weights_of_channels import FILTERS, entry_counts

TINY = 1e-30


@dataclass(frozen=True)
class HESSO(HardGates):
    """Close, in every period, the channels of least saliency from 1 to exactly 0 in equal steps; they don't come back.

    With x the filter of a channel and what norms do to its output, and g its gradient, the saliency is the sum of

        ||x||,  ||x|| / sqrt(n),  1 + cos(x, -g),  |<x, g>|,  <x, g>^2 / 2

    each divided by its L2 norm over all channels of the network, with weight 0.2. In a period of T steps a channel is
    multiplied with (T - 1) / T, (T - 2) / T, ..., 0.

    Source: the code of OTO v3 (github.com/tianyic/only_train_once; Chen et al., HESSO, arXiv 2409.09085), which
    multiplies the weights of a group with (T - t - 1) / (T - t) after every step; the gates are that product here, and
    act where channels are read. Own: `closing` is T, and periods follow one another so that the last one begins with
    the last choice; how many channels go in each is up to the budget's schedule. The gradients are those of the last
    batch that was read; their sums over several processes and batches are what the optimizer gets.
    """

    def init_state(self, channels: int) -> MethodState:
        """Return no saliency yet."""
        return {"saliency": torch.zeros(channels, dtype=torch.float32)}

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        """Return the saliency by weights and gradients of now; what is not finite changes nothing."""
        found = saliency(context)
        return {"saliency": torch.where(found.isfinite().all(), found, state["saliency"])}

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the saliency, to be compared over all groups; 0 for what has begun to close."""
        return globally(torch.where(context.gate_param < 1, 0.0, state["saliency"]), context)

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x, one of `closing` equal parts further towards 0 for what goes in this period."""
        window = context.window
        level = (context.gate_param * window.closing).round()
        to_last = window.last_selection - context.steps
        begins = to_last >= 0 and to_last % window.closing == 0
        goes = ~context.chosen & ((level < window.closing) | begins)
        moved = level - goes.to(level) + context.chosen.to(level)
        return moved.clamp(0, window.closing) / window.closing


def saliency(context: StepContext) -> Tensor:
    """Return the saliency of every channel by the weights and gradients of now.

    Args:
        context: where the run is.

    Returns:
        Sums of five terms, shape (channels of all groups,), float32; 0 for channels that were cut out.
    """

    def gradient(parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.float()

    inner = sum_over_roles(context, lambda p: p.detach().float() * gradient(p))
    norm = sum_over_roles(context, lambda p: p.detach().float().square()).sqrt()
    gradient_norm = sum_over_roles(context, lambda p: gradient(p).float().square()).sqrt()
    mean_norm = norm / entry_counts(context, *FILTERS).clamp_min(1).sqrt()
    cosine = 1 - inner / (norm * gradient_norm).clamp_min(TINY)
    first_order = _unit(inner.abs())
    terms = (_unit(norm), _unit(mean_norm), _unit(cosine * context.is_there), first_order, _unit(first_order.square()))
    return 0.2 * torch.stack(terms).sum(0) * context.is_there


def sum_over_roles(context: StepContext, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the sum of a function over all entries of a channel's filters, and of what norms do to their output.

    Args:
        context: where the run is.
        function: makes numbers of the same shape of a parameter.
    """
    return torch.stack([by_channel(context, role, function) for role in FILTERS]).sum(0)


def _unit(term: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(term)
    return term / length.clamp_min(TINY)
