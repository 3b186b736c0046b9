"""Copy, move or randomise example inputs, which are a tuple of whatever `forward` takes."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

Inputs = tuple[Any, ...]
Tree = TypeVar("Tree")


def as_input_tuple(example_inputs: Any) -> Inputs:
    """Return one input, or a list or tuple of inputs, as a tuple.

    Args:
        example_inputs: one tensor, or a list or tuple of positional inputs.
    """
    return tuple(example_inputs) if isinstance(example_inputs, list | tuple) else (example_inputs,)


def map_tensors(function: Any, tree: Tree) -> Tree:
    """Return a tree of containers with every tensor in it replaced; other leaves stay.

    Args:
        function: makes a tensor of a tensor.
        tree: nested lists, tuples and dicts.
    """
    mapped: Tree = tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)
    return mapped


def match_weights(model: nn.Module, inputs: Tree) -> Tree:
    """Return inputs on the device of the network's weights, and floats in their floating type.

    Args:
        model: the network; without floating weights the inputs are returned as they are.
        inputs: nested containers of tensors.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return inputs
    device, dtype = weight.device, weight.dtype
    return map_tensors(lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype), inputs)


def clone_inputs(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return a copy of the example input that `forward` may change, fit for the network.

    Args:
        model: decides device and floating type.
        inputs: positional inputs.
    """
    return map_tensors(torch.clone, match_weights(model, inputs))


def randomize_inputs(inputs: Inputs, only_constant: bool = False) -> Inputs:
    """Return inputs of the same shapes with random numbers in place of floats: an example of zeros would show nothing.

    Args:
        inputs: positional inputs.
        only_constant: leave tensors alone whose elements differ already.
    """
    generator = torch.Generator().manual_seed(0)

    def randomize(value: Tensor) -> Tensor:
        """Return random numbers in the shape and type of a tensor, or the tensor itself if it is to stay."""
        if not value.is_floating_point() or value.numel() == 0:
            return value
        if only_constant and bool((value != value.flatten()[0]).any()):
            return value
        return torch.randn(value.shape, generator=generator).to(value)

    return map_tensors(randomize, inputs)


def double_batch(inputs: Inputs) -> Inputs:
    """Return the inputs twice along the batch dimension: batch norm refuses to train on a single value per channel.

    Args:
        inputs: positional inputs; the first dimension of every tensor is taken for the batch.
    """
    return map_tensors(lambda t: torch.cat([t, t]) if t.dim() else t, inputs)
