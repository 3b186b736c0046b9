"""Names of tensors and modules, without the `_orig_mod` that torch.compile puts into them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gdp.errors import GDPError


def plain_name(name: str) -> str:
    """The name that it would have without torch.compile.

    >>> plain_name("net._orig_mod.conv1"), plain_name("_orig_mod")
    ('net.conv1', '')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by their plain names."""
    return {plain_name(name): t for name, t in (*model.named_parameters(), *model.named_buffers())}


def module_of(model: nn.Module, name: str) -> nn.Module:
    """The submodule of that plain name."""
    for part in name.split(".") if name else []:
        model = getattr(unwrapped(model), part)
    return unwrapped(model)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside what torch.compile makes of it."""
    compiled = module._modules.get("_orig_mod")
    return module if compiled is None else compiled


def plain_state(state: dict[str, Any]) -> dict[str, Any]:
    """A state_dict under plain names."""
    return {plain_name(name): value for name, value in state.items()}


def state_for(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A state_dict under the names of this module, whichever of its parts are compiled."""
    own = {plain_name(name): name for name in module.state_dict()}
    return {own.get(plain_name(name), name): value for name, value in state.items()}


SUFFIX = "_gdp_gate"  # the buffer beside a gated weight: `conv.weight` has `conv.weight_gdp_gate`


def refuse_gated(model: nn.Module) -> None:
    """Refuse a network that has gates.

    Raises:
        GDPError: it has.
    """
    if any(name.endswith(SUFFIX) for name, _ in model.named_buffers()):
        raise GDPError(
            f"This {type(model).__name__} has gates already, probably from a run that was interrupted. Finish it with "
            "gdp.remove(network, pruner.graph, pruner.gates), or, if nothing was cut yet, take the gates away with "
            "pruner.gates.withdraw()."
        )
