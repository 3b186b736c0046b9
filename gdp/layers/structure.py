"""Describe the layers of this package in a network as plain data, and rebuild them from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from gdp.errors import GDPError
from gdp.layers.linear_conv import LinearConv2d
from gdp.layers.shifted_conv import ShiftedConv2d
from gdp.layers.stripe_conv import StripeConv2d
from gdp.layers.swap import set_module, to_conv
from gdp.utils import under_plain_names

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by plain names
Spec = list[Any]  # kind of a layer, and its sizes: see `describe`
CONV_SPEC: Spec = ["conv"]


def describe(module: nn.Module) -> Spec:
    """Return what kind of layer a module is, and what is needed beside the conv in its place to build it.

    Args:
        module: any.

    Returns:
        ["linear", primary filters], ["stripe"], ["shifted", [[row, column, filters], ...]], or ["conv"] for all others.
    """
    if isinstance(module, LinearConv2d):
        return ["linear", module.primary.out_channels]
    if isinstance(module, ShiftedConv2d):
        return ["shifted", [[*position, count] for position, count in module.counts.items()]]
    return ["stripe"] if isinstance(module, StripeConv2d) else CONV_SPEC


def layers_in(model: nn.Module) -> dict[str, Spec]:
    """Return the layers of this package in a network, described, by plain names.

    Args:
        model: the network.
    """
    named = under_plain_names(model, model.named_modules())
    return {name: spec for name, module in named.items() if (spec := describe(module)) != CONV_SPEC}


def layers_around_cut(model: nn.Module, shapes: Shapes) -> tuple[dict[str, Spec], dict[str, Spec]]:
    """Return which convs of the dense network were swapped before it was cut, and which layers after.

    Args:
        model: the network as it is now.
        shapes: of the tensors before the cut; empty if there was none.

    Returns:
        Descriptions by plain names: of the layers at the time of the cut, and of those that took a place since.

    Raises:
        GDPError: a layer was cut, swapped and cut again.
    """
    named = under_plain_names(model, model.named_modules())
    before, after = {}, {}
    for name, module in named.items():
        now = describe(module)
        if now == CONV_SPEC and not isinstance(module, nn.Conv2d):
            continue
        then = _spec_at_cut(name, shapes)
        if then != CONV_SPEC:
            before[name] = then
        if then[0] != now[0]:
            after[name] = now
    return before, after


def _spec_at_cut(name: str, shapes: Shapes) -> Spec:
    """Return the description of a layer at the time of the cut.

    Args:
        name: of the layer.
        shapes: of the tensors before the cut.

    Raises:
        GDPError: it was cut, swapped and cut again.
    """
    prefix = f"{name}." if name else ""
    inside = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    found: list[Spec] = []
    if "primary.weight" in inside and "coefficients.weight" in inside:
        found.append(["linear", inside["primary.weight"][0]])
    stripes = [
        (match, inside[key][0]) for key in inside if (match := re.fullmatch(r"stripes\.(\d+)_(\d+)\.weight", key))
    ]
    if stripes:
        found.append(["shifted", [[int(match[1]), int(match[2]), count] for match, count in stripes]])
    if "weight" in inside:
        found.append(["stripe"] if "skeleton" in inside else CONV_SPEC)
    added_later = "skeleton" in inside and inside["skeleton"][0] != inside["weight"][0]
    if len(found) > 1 or added_later:
        raise GDPError(
            f"{name} was cut, swapped for another layer, and cut again; a file tells of one cut. Swap layers "
            "(gdp.layers.linearize, stripe) before gdp prunes, and call prune_stripes or fold when pruning is over; or "
            "save the state_dict of this network and build it by hand."
        )
    return found[0] if found else CONV_SPEC


def rebuild(model: nn.Module, specs: Mapping[str, Any]) -> ExitStack:
    """Put layers in the places of convs, as they are described, with weights that are still to be loaded.

    Args:
        model: the network.
        specs: descriptions by plain names, from a file.

    Returns:
        What puts the layers back that were there.

    Raises:
        GDPError: a description is none, or there is no conv in a place; nothing is changed then.
    """
    named = under_plain_names(model, ((name, (name, m)) for name, m in model.named_modules()))
    with ExitStack() as undo:
        for plain, spec in specs.items():
            name, old = named.get(plain, ("", model))
            if describe(old) == spec:
                continue
            conv = to_conv(old)
            if not name or not isinstance(conv, nn.Conv2d) or type(conv) is not nn.Conv2d:
                raise GDPError(
                    f"Expected a conv {plain!r} in {type(model).__name__}, in whose place a layer of gdp.layers was. "
                    "Build the same architecture, as its own constructor does."
                )
            new = _build(conv, spec, plain).train(old.training)
            undo.callback(set_module, model, name, old)
            set_module(model, name, new)
        return undo.pop_all()


def _build(conv: nn.Conv2d, spec: Any, name: str) -> nn.Module:
    """Return a layer for the place of a conv.

    Args:
        conv: whose options are read.
        spec: a description of the layer.
        name: of the place, for messages.

    Raises:
        GDPError: it is no description, or one of another conv.
    """
    try:
        kind, *sizes = spec
        if kind == "linear":
            return LinearConv2d.shaped_like(conv, int(sizes[0]) / conv.out_channels)
        if kind == "shifted":
            counts = {(int(row), int(column)): int(count) for row, column, count in sizes[0]}
            limits = [range(size) for size in conv.kernel_size]
            if counts and all(
                r in limits[0] and c in limits[1] and 0 < n <= conv.out_channels for (r, c), n in counts.items()
            ):
                return ShiftedConv2d(conv, counts)
        elif kind in ("stripe", "conv"):
            return StripeConv2d.of(conv) if kind == "stripe" else conv
    except (TypeError, ValueError, IndexError) as error:
        raise GDPError(f"Expected the description of a layer for {name!r}, but found {spec!r}.") from error
    raise GDPError(f"Expected the description of a layer for {name!r}, but found {spec!r}.")
