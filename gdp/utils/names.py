"""Translate names to plain names: those that tensors and modules have in the network as its class builds it.

Wrappers put a part of their own into names: `_orig_mod` of torch.compile, `module` of DataParallel and
DistributedDataParallel. Graphs, plans, reports and files hold plain names alone. Only the functions here know wrappers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gdp.errors import GDPError

GATE_SUFFIX = "_gdp_gate"  # the buffer beside a gated weight: `conv.weight` has `conv.weight_gdp_gate`
COMPILED = "_orig_mod"  # under this name torch.compile's wrapper holds the module; no one else uses it
PARALLEL = "module"  # under this name the parallel wrappers do, and many a network has a part of that name

T = TypeVar("T")


def plain_name(name: str, wrapped: Collection[str] = ()) -> str:
    """Return the name that a tensor or module would have without wrappers.

    Args:
        name: as `named_parameters` or `named_modules` give it.
        wrapped: the names in the same network under which parallel wrappers hold a module.

    >>> plain_name("net._orig_mod.conv1"), plain_name("_orig_mod"), plain_name("module.conv1")
    ('net.conv1', '', 'module.conv1')
    >>> plain_name("module.net.module.conv1", wrapped={"module"})
    'net.module.conv1'
    """
    parts = name.split(".")
    kept = [p for i, p in enumerate(parts) if p != COMPILED and ".".join(parts[: i + 1]) not in wrapped]
    return ".".join(kept)


def under_plain_names(model: nn.Module, named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return a dict by plain names; a wrapper and the module in it share one, and the dict has the module.

    Args:
        model: whose names they are.
        named: names and tensors or modules: `model.named_parameters()`, `model.state_dict().items()`.
    """
    wrapped = _wrapped_names(model)
    return {plain_name(name, wrapped): value for name, value in named}


def _wrapped_names(model: nn.Module) -> set[str]:
    """Return the names under which parallel wrappers hold a module."""
    named = model.named_modules(remove_duplicate=False)
    return {
        f"{name}.{PARALLEL}".lstrip(".") for name, m in named if isinstance(m, DataParallel | DistributedDataParallel)
    }


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by their plain names; one that has several is there under each.

    Args:
        model: any module, wrapped or not.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    return under_plain_names(model, [*parameters, *model.named_buffers(remove_duplicate=False)])


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its plain name, the first one if it has several.

    Args:
        model: any module, wrapped or not.
    """
    return {name: tuple(p.shape) for name, p in under_plain_names(model, model.named_parameters()).items()}


def get_module(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule of that plain name, without a wrapper.

    Args:
        model: any module, wrapped or not.
        name: plain name of a submodule; empty for the module itself.

    Raises:
        AttributeError: there is no such submodule.
    """
    for part in name.split(".") if name else []:
        child = getattr(unwrap(model), part, None)  # scripted modules have no get_submodule
        if not isinstance(child, nn.Module):
            raise AttributeError(f"{type(unwrap(model)).__name__} has no submodule {part!r}")
        model = child
    return unwrap(model)


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside of all wrappers.

    Args:
        module: a wrapper, or any other module, which is returned as it is.
    """
    if isinstance(module, DataParallel | DistributedDataParallel):
        return unwrap(module.module)
    inner = next((child for name, child in module.named_children() if name == COMPILED), None)
    return module if inner is None else unwrap(inner)


def is_compiled(module: nn.Module) -> bool:
    """Return whether torch.compile has wrapped this very module or compiled it in place.

    Args:
        module: its children are not looked at.
    """
    return any(name == COMPILED for name, _ in module.named_children()) or module._compiled_call_impl is not None


def state_dict_for(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state_dict under the names of this module, whichever of its parts are wrapped.

    Args:
        module: whose names are wanted.
        state: under the names that the module has with any other of its parts wrapped; unknown names stay.
    """
    own = {plain: name for name, plain in _own_names(module).items()}
    return {own.get(name, name): value for name, value in plain_state_dict(module, state).items()}


def plain_state_dict(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state_dict under plain names.

    Args:
        module: whose state it is.
        state: under the names that the module has with any of its parts wrapped; unknown names lose `_orig_mod` alone.
    """
    own = _own_names(module)
    known = set(own.values())

    def plain(name: str) -> str:
        if name in own:
            return own[name]
        # every name that is left when some of its parts `module` are taken for those of wrappers, the longest first
        parts = plain_name(name).split(".")
        choices = product(*((p, None) if p == PARALLEL else (p,) for p in parts))
        possible = sorted((".".join(p for p in choice if p is not None) for choice in choices), key=len, reverse=True)
        return next((found for found in possible if found in known), plain_name(name))

    return {plain(name): value for name, value in state.items()}


def _own_names(module: nn.Module) -> dict[str, str]:
    """Return the plain name of every name in the state_dict of a module."""
    wrapped = _wrapped_names(module)
    return {name: plain_name(name, wrapped) for name in module.state_dict()}


def check_ungated(model: nn.Module) -> None:
    """Check that a network has no gates.

    Args:
        model: any module.

    Raises:
        GDPError: it has.
    """
    if any(name.endswith(GATE_SUFFIX) for name, _ in model.named_buffers()):
        raise GDPError(
            f"This {type(model).__name__} has gates already, probably from a run that was interrupted. Take them away "
            "by gdp.make_plain(network): it computes what it did. Or finish that run by gdp.remove(network, "
            "pruner.graph, pruner.gates)."
        )


def check_one_device(model: nn.Module, network: nn.Module) -> None:
    """Check that no DataParallel splits the batches of a network among devices.

    The copies of layers that it makes hold no Parameters, so they can't be gated.

    Args:
        model: any module, which holds the network.
        network: that is to be gated.

    Raises:
        GDPError: one does.
    """
    for name, module in model.named_modules():
        if not isinstance(module, DataParallel) or len(module.device_ids) < 2:
            continue
        if any(m is network for m in module.modules()) or any(m is module for m in network.modules()):
            raise GDPError(
                f"{f'{name} is in ' if name else ''}DataParallel on {len(module.device_ids)} devices makes copies of "
                "layers in every pass, which can't be gated. Train by DistributedDataParallel (strategy='ddp' in "
                "Lightning), or on one device: DataParallel(net, device_ids=[0]). After pruning any wrapper will do."
            )
