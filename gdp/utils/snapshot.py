"""Remember what modules hold in Python, and put it back: attributes, the containers in them, and tensors."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset

from gdp.errors import GDPError
from gdp.utils.tracebacks import is_installed, is_user_file

# types that hold nothing, by which most values are passed over quickly
_PLAIN = {bool, int, float, complex, str, bytes, type(None), type, FunctionType, MethodType}
_PLAIN |= {torch.Size, torch.dtype, torch.device}


class Snapshot:
    """Hold what a network is made of while `forward` runs on trial.

    Attributes of every module are followed through dicts, lists, tuples, sets, deques, dataclasses, further modules and
    objects of the user's classes.
    Containers and tensors keep their identity when they are put back. The values of buffers, of tensors in plain
    attributes and of trained parameters are copied. Of a parameter that is not trained only its data as an object is
    remembered: a large network beside the pruned one may not fit into memory twice.

    Args:
        model: the network.
        values: remember what tensors hold; else only which objects are where.

    Raises:
        GDPError: the network has parameters that are still without a shape.
    """

    def __init__(self, model: nn.Module, values: bool = True) -> None:
        check_initialized(model)
        # what scripted modules hold lies not in their __dict__
        scripted = [m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)]
        self._modes = [(m, m.training) for m in scripted if hasattr(m, "training")]  # frozen ones have no mode
        waiting: list[Any] = [*model.modules(), *model.parameters(), *model.buffers()]
        self._containers: list[_Container] = []
        self._tensors: list[_Values] = []
        packages, helpers = {_package(type(m)) for m in model.modules()}, dict[type, bool]()
        seen: dict[int, object] = {}  # which holds them, so that no id is given out twice
        while waiting:
            value = waiting.pop()
            if type(value) in _PLAIN or id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Tensor) and values:
                self._tensors.append(_Values(value))
            if isinstance(value, dict | list | set | deque):
                container = _Container(value)
                self._containers.append(container)
                waiting += container.values
            elif isinstance(value, tuple):
                waiting += value
            elif isinstance(value, Tensor | nn.Module | SimpleNamespace):
                waiting.append(getattr(value, "__dict__", None))
            else:
                kind = type(value)
                if kind not in helpers:
                    helpers[kind] = _is_helper(kind, packages)
                if helpers[kind]:
                    waiting.append(getattr(value, "__dict__", None))

    def changed(self) -> bool:
        """Return whether anything is no longer what it was."""
        return any(c.changed() for c in self._containers) or any(t.changed() for t in self._tensors)

    def restore(self) -> None:
        """Put everything back."""
        for container in self._containers:
            if container.changed():
                container.restore()
        for module, training in self._modes:
            module.training = training
        for values in self._tensors:
            values.restore()


def _package(kind: type) -> str:
    """Return the top-level package that a class is defined in."""
    return kind.__module__.partition(".")[0]


def _is_helper(kind: type, packages: set[str]) -> bool:
    """Return whether objects of a class may keep something for a module.

    So do dataclasses, and classes of the user's files or of packages that modules of the network come from. Objects of
    other packages (loggers) have a life of their own, and data sets may be large.

    Args:
        kind: any class.
        packages: top-level packages of the network's modules.
    """
    if is_dataclass(kind) or issubclass(kind, Dataset):
        return is_dataclass(kind)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or "<unknown>"
    return is_user_file(file) and (_package(kind) in packages or not is_installed(file))


class _Container:
    """Remember what is in a dict, list, set or deque.

    Args:
        container: to be put back; its values may be containers that are remembered by themselves.

    Attributes:
        container: as given.
        values: what was in it.
    """

    __slots__ = ("_keys", "container", "values")

    def __init__(self, container: Any) -> None:
        self.container = container
        self.values: Collection[Any] = ()
        self._keys: Collection[Any] = ()
        if container:  # most are empty: the dicts of hooks of every module
            is_dict = isinstance(container, dict)
            self.values, self._keys = (
                list(container.values() if is_dict else container),
                list(container) if is_dict else (),
            )

    def changed(self) -> bool:
        """Return whether other objects are in it, or the same ones under other keys or in another order."""
        now, values = self.container, self.values
        if len(now) != len(values):
            return True
        if not values:
            return False
        if isinstance(now, dict):
            if any(a is not b for a, b in zip(now, self._keys, strict=True)):
                return True
            now = now.values()
        elif isinstance(now, set):  # whose order says nothing
            return {id(v) for v in now} != {id(v) for v in values}
        return any(a is not b for a, b in zip(now, values, strict=True))

    def restore(self) -> None:
        """Put back what was in it."""
        self.container.clear()
        if isinstance(self.container, dict):
            self.container.update(zip(self._keys, self.values, strict=True))
        elif isinstance(self.container, set):
            self.container.update(self.values)
        else:
            self.container.extend(self.values)


class _Values:
    """Remember the data of a tensor, and its numbers where they may be written over.

    Args:
        tensor: of any kind; numbers are remembered of ordinary dense tensors.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._data = tensor.data
        self._needed_gradient = tensor.requires_grad
        dense = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized
        untrained = isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        self._copy = tensor.detach().clone() if dense and not untrained else None

    def changed(self) -> bool:
        """Return whether the tensor has other data or other numbers."""
        return self._has_other_data() or self._is_overwritten()

    def restore(self) -> None:
        """Put back data and numbers; a tensor that still has them is not touched."""
        if self._tensor.requires_grad and not self._needed_gradient:  # the result of an operation in place does
            self._tensor.detach_()
        if self._has_other_data():
            self._tensor.data = self._data
        if self._copy is not None and self._is_overwritten():
            self._data.copy_(self._copy)

    def _has_other_data(self) -> bool:
        now, then = self._tensor, self._data
        if (now.dtype, now.shape, now.layout) != (then.dtype, then.shape, then.layout):
            return True
        return now.layout is torch.strided and (now.stride(), now.data_ptr()) != (then.stride(), then.data_ptr())

    def _is_overwritten(self) -> bool:
        if self._copy is None or torch.equal(self._data, self._copy):
            return False
        both_nan = (self._data != self._data) & (self._copy != self._copy)
        return not bool(((self._data == self._copy) | both_nan).all())


def check_initialized(model: nn.Module) -> None:
    """Check that every parameter and buffer of a network has a shape.

    Args:
        model: the network.

    Raises:
        GDPError: a lazy layer (nn.LazyConv2d) has seen no input yet.
    """
    for name, tensor in _stored(model):
        if is_lazy(tensor):
            raise GDPError(
                f"{name} of {type(model).__name__} has no shape yet, since its lazy layer has seen no input. Run the "
                "network once on an example input before it is pruned: it is another network from then on."
            )


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
