"""Copy, move or randomise example inputs, which are a tuple of whatever `forward` takes: by position, then by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from inspect import Parameter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gdp.errors import GDPError
from gdp.utils.names import unwrap

Inputs = tuple[Any, ...]
Tree = TypeVar("Tree")
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def as_inputs(model: nn.Module, example: Any) -> Inputs:
    """Return an example as a tuple of inputs, as `arguments` takes them.

    A mapping whose names are those of parameters of `forward` holds its arguments by name; any other is one input. A
    list is several inputs, unless `forward` takes one only.

    Args:
        model: the network.
        example: one input, a tuple or list of several, or a mapping of names to inputs.

    Raises:
        GDPError: arguments by name can't be given in this combination.
    """
    if isinstance(example, tuple):
        return example
    parameters = _parameters(model)
    if isinstance(example, Mapping) and example and all(name in parameters for name in example):
        return inputs_by_name(model, (), dict(example))
    if isinstance(example, list):
        taken = [p for p in parameters.values() if p.kind in _POSITIONAL]
        one = len(taken) == 1 and not any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values())
        return (example,) if one and len(example) != 1 else tuple(example)
    return (example,)


def inputs_by_name(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Return the arguments of a call of `forward` as a tuple: by position first, then those that go by name only.

    What was left out between two of them has its default.

    Args:
        model: the network.
        args: by position.
        kwargs: by name.

    Raises:
        GDPError: `forward` takes any number of arguments, and these can't be told apart in a tuple.
        TypeError: it does not take these arguments.
    """
    given = inspect.signature(unwrap(model).forward).bind(*args, **kwargs).arguments
    values, last = [], 0
    for name, parameter in _parameters(model).items():
        if parameter.kind is Parameter.VAR_POSITIONAL:
            values += given.get(name, ())
        elif parameter.kind is Parameter.VAR_KEYWORD:
            if given.get(name):
                raise GDPError(
                    f"{type(model).__name__}.forward takes {', '.join(given[name])} by **{name}, which gdp can't pass "
                    "on: name these parameters in forward, or prune the part that computes with them by "
                    "GDPCallback(module=...) or gdp.trace(model.part, ...)."
                )
            continue
        else:
            values.append(given.get(name, parameter.default))
        if name in given:
            last = len(values)
    return tuple(values[:last])


def arguments(model: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as the positional and keyword arguments that `forward` is called with.

    Args:
        model: the network.
        inputs: as `as_inputs` makes them.
    """
    parameters = _parameters(model)
    places = sum(p.kind in _POSITIONAL for p in parameters.values())
    names = [name for name, p in parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    if any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values()) or len(inputs) > places + len(names):
        return inputs, {}
    return inputs[:places], dict(zip(names, inputs[places:], strict=False))


def _parameters(model: nn.Module) -> Mapping[str, Parameter]:
    """Return the parameters of `forward` by name.

    Args:
        model: the network, maybe in a wrapper.
    """
    return inspect.signature(unwrap(model).forward).parameters


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
