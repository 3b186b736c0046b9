"""Find the tensors in whatever `forward` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return all tensors in the outputs of a network, in the order in which they are written.

    Containers that torch knows are opened, and beside them every list, tuple, mapping, dataclass and other object with
    attributes, in any depth.

    Args:
        outputs: of `forward`.
    """
    return _tensors_in(outputs, set())


def _tensors_in(value: Any, inside_of: set[int]) -> list[Tensor]:
    """Return all tensors in a value; an object that holds itself is opened once.

    Args:
        value: anything.
        inside_of: ids of the objects that hold it.
    """
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif id(leaf) not in inside_of:
            for part in _parts(leaf):
                found += _tensors_in(part, inside_of | {id(leaf)})
    return found


def _parts(value: Any) -> list[Any]:
    """Return what an object that torch does not know holds.

    Args:
        value: no tensor.
    """
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, type | nn.Module) or callable(value):
        return []
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []
