"""Translate names to plain names: without the `_orig_mod` that torch.compile puts into them.

Graphs, plans, reports and files hold plain names alone. Only the functions here know the wrapper.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

from gdp.errors import GDPError

GATE_SUFFIX = "_gdp_gate"  # the buffer beside a gated weight: `conv.weight` has `conv.weight_gdp_gate`
WRAPPED = "_orig_mod"  # under this name torch.compile's wrapper holds the module

T = TypeVar("T")


def plain_name(name: str) -> str:
    """Return the name that a tensor or module would have without torch.compile.

    Args:
        name: as `named_parameters` or `named_modules` give it.

    >>> plain_name("net._orig_mod.conv1"), plain_name("_orig_mod")
    ('net.conv1', '')
    """
    return ".".join(part for part in name.split(".") if part != WRAPPED)


def under_plain_names(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return a dict by plain names; a wrapper and the module in it share one, and the dict has the module.

    Args:
        named: names and tensors or modules: `model.named_parameters()`, `state.items()`.
    """
    return {plain_name(name): value for name, value in named}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by their plain names.

    Args:
        model: any module, compiled or not.
    """
    return under_plain_names((*model.named_parameters(), *model.named_buffers()))


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its plain name.

    Args:
        model: any module, compiled or not.
    """
    return {name: tuple(p.shape) for name, p in under_plain_names(model.named_parameters()).items()}


def get_module(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule of that plain name, without a wrapper.

    Args:
        model: any module, compiled or not.
        name: plain name of a submodule; empty for the module itself.

    Raises:
        AttributeError: there is no such submodule.
    """
    for part in name.split(".") if name else []:
        model = unwrap_compiled(model).get_submodule(part)
    return unwrap_compiled(model)


def unwrap_compiled(module: nn.Module) -> nn.Module:
    """Return the module inside what torch.compile makes of it.

    Args:
        module: a wrapper, or any other module, which is returned as it is.
    """
    return next((child for name, child in module.named_children() if name == WRAPPED), module)


def is_compiled(module: nn.Module) -> bool:
    """Return whether torch.compile has wrapped this very module or compiled it in place.

    Args:
        module: its children are not looked at.
    """
    return unwrap_compiled(module) is not module or module._compiled_call_impl is not None


def state_dict_for(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state_dict under the names of this module, whichever of its parts are compiled.

    Args:
        module: whose names are wanted.
        state: under the names that the module has with any other of its parts compiled; unknown names stay.
    """
    own = {plain_name(name): name for name in module.state_dict()}
    return {own.get(plain_name(name), name): value for name, value in state.items()}


def check_ungated(model: nn.Module) -> None:
    """Check that a network has no gates.

    Args:
        model: any module.

    Raises:
        GDPError: it has.
    """
    if any(name.endswith(GATE_SUFFIX) for name, _ in model.named_buffers()):
        raise GDPError(
            f"This {type(model).__name__} has gates already, probably from a run that was interrupted. Finish it with "
            "gdp.remove(network, pruner.graph, pruner.gates), or, if nothing was cut yet, take the gates away with "
            "pruner.gates.withdraw()."
        )
