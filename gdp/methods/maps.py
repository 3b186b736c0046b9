"""What passes show of every channel: its activations at the first layer that reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Activation
from gdp.graph import ChannelGraph
from gdp.utils import tensors_in


def first_shown(activations: Iterable[Activation], asked: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield layer by layer what is read of channels that no layer before has read.

    Args:
        activations: what gated layers have read, samples along the first dimension.
        asked: the channels that are asked for, one bool per channel of all groups.

    Yields:
        The channel of every entry, shape (entries,), some of them maybe several times; and what is read there, shape
        (samples, entries, ...), float32, with 0 for what is not finite.
    """
    fresh = torch.cat([asked.cpu(), torch.zeros(1, dtype=torch.bool)])  # the last for entries of no channel
    for activation in activations:
        channel = activation.channel.cpu()
        entries = torch.nonzero(fresh[channel]).flatten()
        if activation.dim > 0 and len(entries):
            shown = activation.tensor.detach().movedim(activation.dim, 1)
            yield channel[entries], torch.nan_to_num(shown[:, entries.to(shown.device)].float())
            fresh[channel] = False


def feature_maps(activations: Iterable[Activation], method: str) -> list[Activation]:
    """Return the activations that have rows and columns beside samples and channels.

    Args:
        activations: what gated layers have read.
        method: name of the method that needs them.

    Raises:
        GDPError: there are none.
    """
    found = [activation for activation in activations if activation.tensor.dim() == 4]
    if not found:
        raise no_maps(method, "of the layers that read channels none was given feature maps")
    return found


def mean_over_entries(found: Iterable[tuple[Tensor, Tensor]], channels: int) -> tuple[Tensor, Tensor]:
    """Return the mean of numbers over the entries of every channel, and which channels have any.

    Args:
        found: the channel of every entry, shape (entries,), and a number of each.
        channels: of all groups.

    Returns:
        Means, shape (channels,), float32, on the CPU; and one bool per channel.
    """
    total, count = torch.zeros(2, channels, dtype=torch.float32)
    for channel, numbers in found:
        total.index_add_(0, channel, numbers.float().cpu())
        count.index_add_(0, channel, torch.ones(len(channel), dtype=torch.float32))
    return total / count.clamp_min(1), count > 0


def check_may_have_maps(graph: ChannelGraph, method: str) -> None:
    """Check that a network may have feature maps: it is given images, or has 2d convs that read channels.

    Args:
        graph: what `gdp.trace` found in it.
        method: name of the method that needs them.

    Raises:
        GDPError: it has none for sure.
    """
    has_images = any(tensor.dim() == 4 for tensor in tensors_in(graph.inputs))
    reads = [axis for group in graph.groups for axis in group.reads]
    if not has_images and not any(len(graph.shapes[axis.tensor]) == 4 for axis in reads):
        raise no_maps(method, "the network is given no images and has no 2d convs that read channels")


def no_maps(method: str, why: str) -> GDPError:
    """Return the error for a network without feature maps.

    Args:
        method: that needs them.
        why: there are none, in words.
    """
    return GDPError(
        f"{method} compares channels by their feature maps (samples, channels, rows, columns), but {why}. Use a method "
        "that needs no feature maps, such as method='polar'."
    )
