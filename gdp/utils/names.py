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


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by their plain names."""
    return {plain_name(name): t for name, t in (*model.named_parameters(), *model.named_buffers())}


def get_module(model: nn.Module, name: str) -> nn.Module:
    """The submodule of that plain name."""
    for part in name.split(".") if name else []:
        model = getattr(unwrap_compiled(model), part)
    return unwrap_compiled(model)


def unwrap_compiled(module: nn.Module) -> nn.Module:
    """The module inside what torch.compile makes of it."""
    compiled = module._modules.get("_orig_mod")
    return module if compiled is None else compiled


def plain_state_dict(state: dict[str, Any]) -> dict[str, Any]:
    """A state_dict under plain names."""
    return {plain_name(name): value for name, value in state.items()}


def state_dict_for(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A state_dict under the names of this module, whichever of its parts are compiled."""
    own = {plain_name(name): name for name in module.state_dict()}
    return {own.get(plain_name(name), name): value for name, value in state.items()}


GATE_SUFFIX = "_gdp_gate"  # the buffer beside a gated weight: `conv.weight` has `conv.weight_gdp_gate`


def check_ungated(model: nn.Module) -> None:
    """Refuse a network that has gates.

    Raises:
        GDPError: it has.
    """
    if any(name.endswith(GATE_SUFFIX) for name, _ in model.named_buffers()):
        raise GDPError(
            f"This {type(model).__name__} has gates already, probably from a run that was interrupted. Finish it with "
            "gdp.remove(network, pruner.graph, pruner.gates), or, if nothing was cut yet, take the gates away with "
            "pruner.gates.withdraw()."
        )
