"""Find the tensors in whatever `forward` returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from types import MemberDescriptorType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return all tensors in the outputs of a network, in the order in which they are written.

    Args:
        outputs: of `forward`.

    Raises:
        GDPError: there is none, or it would be used up by looking.
    """
    found = tensors_in(outputs)
    if not found:
        raise GDPError(
            f"Expected forward to return tensors, in containers or in attributes of objects, but found none in what it "
            f"returns, a {type(outputs).__name__}{' that is used up when it is read' * isinstance(outputs, Iterator)}. "
            "Return a tensor, a list or a dict, or prune a part of the network that does: GDPCallback(module=...)."
        )
    return found


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors in a value, in the order in which they are written.

    Containers that torch knows are opened, and beside them every list, tuple, set, mapping, dataclass and other object
    with attributes, in any depth.

    Args:
        value: anything.
    """
    return _tensors_in(value, set())


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
    if isinstance(value, list | tuple | Set):
        return list(value)
    if isinstance(value, type | nn.Module) or callable(value):
        return []
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    slots = [name for kind in type(value).__mro__ for name, slot in vars(kind).items() if _is_slot(slot)]
    kept = [getattr(value, name) for name in slots if hasattr(value, name)]
    return kept + list(getattr(value, "__dict__", {}).values())


def _is_slot(attribute: Any) -> bool:
    """Return whether an attribute of a class is a slot (`__slots__`), in which every object holds a value of its own.

    Args:
        attribute: of a class.
    """
    return isinstance(attribute, MemberDescriptorType)
