"""What methods ask of the weights of channels: norms over several parameters, how many entries, and scales of norms."""

from __future__ import annotations

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Role
from gdp.methods.context import StepContext
from gdp.methods.helpers import by_channel

FILTERS: tuple[Role, ...] = ("writes", "scales", "shifts")  # a filter, and what norms do to its output


def channel_norms(context: StepContext, *roles: Role) -> Tensor:
    """Return the L2 norm of all entries that a channel has in parameters, differentiable in these.

    The gradient of a norm of 0 is 0.

    Args:
        context: where the run is.
        roles: of the parameters.

    Returns:
        Norms, shape (channels of all groups,), float32.
    """
    squares = torch.stack([by_channel(context, role) for role in roles]).sum(0)
    is_zero = squares == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squares).sqrt())


def filter_norms(context: StepContext) -> Tensor:
    """Return the L2 norm of every channel's filters, times the mean of |gamma| over the norms behind them.

    Args:
        context: where the run is.

    Returns:
        Norms, shape (channels of all groups,), float32, without a graph.
    """
    counts = entry_counts(context, "scales")
    gamma = by_channel(context, "scales", torch.abs).detach() / counts.clamp_min(1)
    return channel_norms(context, "writes").detach() * torch.where(counts > 0, gamma, 1.0)


def filter_factors(context: StepContext, factor: Tensor) -> dict[Role, Tensor]:
    """Return the factors that weaken filters: gamma where a norm follows, the filter itself where none does.

    To a norm, a weaker filter is the same filter with a larger gradient: behind an eps of 1e-5 that of a filter of
    zeros is 316 times as large as one of unit variance has, which then becomes the largest of all within a step.

    Args:
        context: where the run is.
        factor: of every channel, shape (channels of all groups,).
    """
    has_norm = entry_counts(context, "scales") > 0
    return {"scales": factor, "writes": torch.where(has_norm, 1.0, factor)}


def entry_counts(context: StepContext, *roles: Role) -> Tensor:
    """Return how many numbers every channel has in parameters.

    Args:
        context: where the run is.
        roles: of the parameters.

    Returns:
        Numbers, shape (channels of all groups,), float32; 0 for channels without an entry.
    """
    total = context.gate_param.new_zeros(len(context.gate_param) + 1)
    for tensor in (tensor for role in roles for tensor in context.tensors(role)):
        of_one = tensor.parameter.numel() / max(1, tensor.parameter.shape[tensor.dim])
        channel = tensor.channel.to(total.device)
        total.index_add_(0, channel, torch.full_like(channel, of_one, dtype=total.dtype))
    return total[:-1]


def mean_scales(context: StepContext, method: str) -> Tensor:
    """Return the mean of |gamma| over the norms of every channel.

    Args:
        context: where the run is.
        method: that asks, for the message.

    Returns:
        Means, shape (channels of all groups,), float32, without a graph; twice the largest one for channels that no
        norm scales, of which nothing is known: they go last.

    Raises:
        GDPError: no norm scales any channel that can be pruned.
    """
    if not context.tensors("scales"):
        raise no_norms(method, "scales")
    counts = entry_counts(context, "scales")
    means = by_channel(context, "scales", torch.abs).detach() / counts.clamp_min(1)
    return torch.where(counts > 0, means, 2 * means.max() * context.is_there)


def no_norms(method: str, what: str) -> GDPError:
    """Return the error for a network in which no norm acts on channels that can be pruned.

    Args:
        method: that asks.
        what: the norms would have.
    """
    return GDPError(
        f"{method} ranks channels by the {what} of batch norms and their like, but this network has no norm with "
        f"{what} behind channels that can be pruned. Use a method that reads gradients or weights, such as "
        "method='polar', or give the network norms (affine=True)."
    )
