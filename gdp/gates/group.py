"""One channel group: its gates, and its channels as users name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError


@dataclass(frozen=True)
class Gate:
    """The gates of one channel group.

    Attributes:
        name: of the group.
        gate_param: x of every gate, shape (channels,).
        value: what the channels are multiplied with, shape (channels,): 0.0 is closed, 1.0 is open.
    """

    name: str
    gate_param: Tensor
    value: Tensor


def channel_index(name: str, indices: Sequence[int] | Tensor, size: int) -> Tensor:
    """Return the indices of channels within a group.

    Args:
        name: of the group, for messages.
        indices: of channels, or one bool per channel.
        size: channels that the group has.

    Raises:
        GDPError: there is no such channel.
    """
    index = torch.as_tensor(indices).flatten()
    if index.dtype == torch.bool and len(index) == size:
        index = torch.nonzero(index).flatten()
    if len(index) and (index.is_floating_point() or index.dtype == torch.bool):
        raise GDPError(f"Expected channel indices of {name!r}, or {size} bools, but got {indices!r}.")
    index = index.long()
    if len(index) and not (int(index.min()) >= 0 and int(index.max()) < size):
        raise GDPError(f"Expected channel indices of {name!r} in [0, {size - 1}], but got {index.tolist()}.")
    return index


def with_closed(name: str, gate_param: Tensor, indices: Sequence[int] | Tensor, may_go: bool) -> Tensor:
    """Return the x of a group's gates with some channels closed.

    Args:
        name: of the group, for messages.
        gate_param: x of its gates, shape (channels,).
        indices: of the channels to be closed within the group, or one bool per channel.
        may_go: the group may lose all of its channels.

    Raises:
        GDPError: there is no such channel, or none would be left.
    """
    found = gate_param.clone()
    found[channel_index(name, indices, len(found))] = 0.0
    if not bool((found > 0).any()) and not may_go:
        raise GDPError(
            f"Closing all {len(found)} channels of {name!r} would cut the network in two; leave at least one."
        )
    return found
