"""Take tensors without data out of caches that lie outside of the modules: global dicts and `functools.lru_cache`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FunctionType
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from gdp.utils import is_user_file, tensors_in

CACHED: Any = type(lru_cache(len))  # what functools.lru_cache and functools.cache make of a function


@contextmanager
def shared_caches_cleaned(model: nn.Module) -> Iterator[None]:
    """Clean the caches of the user's source files that `forward` may fill while it runs on tensors without data.

    Entries that a global dict has got are deleted if they hold tensors without data; what `functools.lru_cache` has
    remembered is forgotten, before the pass and after it.

    Args:
        model: the network; the files of its classes are looked through, and those of the functions in them.
    """
    spaces = _namespaces(model)
    caches = [value for space in spaces for value in space.values() if type(value) is CACHED]
    dicts = [(value, set(value)) for space in spaces for value in space.values() if type(value) is dict]
    for cache in caches:
        cache.cache_clear()
    try:
        yield
    finally:
        for cache in caches:
            cache.cache_clear()
        for held, before in dicts:
            for key in [key for key in held if key not in before and _is_without_data(held[key])]:
                del held[key]


def _is_without_data(value: Any) -> bool:
    """Return whether a value holds a tensor without data.

    Args:
        value: of a cache.
    """
    return any(isinstance(tensor, FakeTensor) or tensor.is_meta for tensor in tensors_in(value))


def _namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """Return the global names of the user's source files that a network's classes come from, and what these import.

    Args:
        model: the network.
    """
    files = {base.__module__ for module in model.modules() for base in type(module).__mro__}
    waiting = [vars(sys.modules[file]) for file in files if file in sys.modules]
    found: dict[int, dict[str, Any]] = {}
    while waiting:
        space = waiting.pop()
        if id(space) in found or not is_user_file(space.get("__file__") or "<unknown>"):
            continue
        found[id(space)] = space
        # asked for their types alone: a stand-in for a package that is not installed raises when it is touched
        functions = [value for value in list(space.values()) if type(value) in (FunctionType, CACHED)]
        wrapped = [getattr(function, "__wrapped__", function) for function in functions]
        waiting += [function.__globals__ for function in wrapped if type(function) is FunctionType]
    return list(found.values())
