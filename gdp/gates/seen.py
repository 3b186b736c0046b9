"""What a pass of the network shows: the activations that gated layers read, and the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """What one gated layer has read in a pass.

    Attributes:
        layer: its plain name.
        tensor: its first input, before the gate.
        dim: the dimension along which channels lie.
        channel: the channel (in vectors of all channels) that every entry along `dim` belongs to, shape (size along
            dim,); the number of all channels where it belongs to none.
    """

    layer: str
    tensor: Tensor
    dim: int
    channel: Tensor


@dataclass(frozen=True)
class Seen:
    """What a pass of the network on one batch has shown.

    Attributes:
        activations: what gated layers have read, in the order of their first calls, each layer once.
        output: of the network.
        labels: classes of the samples, shape (samples,), int64; None if the batch is not a pair of inputs and classes.
    """

    activations: tuple[Activation, ...]
    output: Any
    labels: Tensor | None
