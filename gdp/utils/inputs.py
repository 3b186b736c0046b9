"""TODO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

Inputs = tuple[Any, ...]


def as_input_tuple(example_inputs: Any) -> Inputs:
    """One tensor or a tuple of inputs, as a tuple."""
    if isinstance(example_inputs, tuple):
        return example_inputs
    return tuple(example_inputs) if isinstance(example_inputs, list) else (example_inputs,)


def inputs_like_weights(model: nn.Module, inputs: Inputs) -> Inputs:
    """The example input on the device and in the floating type of the network's weights."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return inputs

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)

    return tree_map(move, inputs)


def clone_inputs(model: nn.Module, inputs: Inputs) -> Inputs:
    """A copy of the example input that `forward` may change, fit for the network."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, inputs_like_weights(model, inputs))


def randomize_inputs(inputs: Inputs, only_constant: bool = False) -> Inputs:
    """Inputs of the same shapes with random numbers in place of floats: an example of zeros would show nothing."""
    generator = torch.Generator().manual_seed(0)

    def other(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
            return value
        if only_constant and bool((value != value.flatten()[0]).any()):
            return value
        return torch.randn(value.shape, generator=generator).to(value)

    return tree_map(other, inputs)


def double_batch(inputs: Inputs) -> Inputs:
    """The inputs twice along the batch dimension: batch norm refuses to train on a single value per channel."""
    return tree_map(lambda t: torch.cat([t, t]) if isinstance(t, Tensor) and t.dim() else t, inputs)
