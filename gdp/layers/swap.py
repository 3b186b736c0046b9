"""Swap the convs of a network for other layers and back, in place; say what was swapped, and why others were not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from gdp.errors import GDPError
from gdp.layers.checks import check_fraction
from gdp.layers.linear_conv import LinearConv2d, primary_filters
from gdp.layers.shifted_conv import ShiftedConv2d
from gdp.layers.stripe_conv import StripeConv2d
from gdp.utils import check_ungated, count_parameters, plain_name

LAYERS = (LinearConv2d, StripeConv2d, ShiftedConv2d)
Make = Callable[[nn.Module], nn.Module | str]  # a layer to take the place of another, or why that one is left alone


@dataclass(frozen=True)
class Swap:
    """One layer that took the place of another.

    Attributes:
        name: plain name in the network.
        before: elements of the parameters of the layer that was there.
        after: elements of those of the layer that is there now.
        difference: between the filters of the two: |W - W'| / |W|, Frobenius norms.
    """

    name: str
    before: int
    after: int
    difference: float


@dataclass(frozen=True)
class Swaps:
    """What was done to a network.

    Attributes:
        swapped: the layers that took the place of others, in the order of the network.
        left: names of the layers that were left alone -> why.
    """

    swapped: tuple[Swap, ...]
    left: Mapping[str, str]

    def __str__(self) -> str:
        lines = [
            f"{s.name}: {s.before:,} -> {s.after:,} parameters, filters differ by {s.difference:.1%}"
            for s in self.swapped
        ]
        return "\n".join([*lines, *(f"{name}: left alone, {why}" for name, why in self.left.items())])


def linearize(net: nn.Module, ratio: float = 0.5) -> Swaps:
    """Swap the convs of a network for `LinearConv2d`, which begin as close to them as least squares can tell.

    A part of the filters become combinations of the others. Filters that were trained freely are no such combinations:
    `Swaps` says by how much they differ, and the network has to be trained on, since its norms expect other statistics.
    Convs that would not get smaller are left as they are: those with at least as many primary filters as a filter has
    weights (1x1 convs that widen). So are grouped convs, subclasses of nn.Conv2d, shared ones and those with hooks.

    Swap before optimizers are made, since layers get new Parameters.

    Args:
        net: that holds convs; it is changed in place.
        ratio: fraction of the filters that are primary, in (0, 1).

    Raises:
        GDPError: the ratio is out of range, the network has gates, or nothing can be swapped; nothing is changed then.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 32, 1))
    >>> done = linearize(net)
    >>> [(s.name, s.before, s.after) for s in done.swapped]
    [('0', 224, 132)]
    >>> done.left["2"]
    'it would not get smaller: 16 primary filters of 8 weights'
    """
    check_fraction("ratio", ratio)

    def make(conv: nn.Module) -> nn.Module | str:
        """Return the linear conv, or why there is none."""
        reason = _reason_to_leave(conv)
        if reason or not isinstance(conv, nn.Conv2d):
            return reason
        if conv.out_channels < 2:
            return "it has one filter"
        primary, size = primary_filters(conv.out_channels, ratio), conv.weight[0].numel()
        if primary >= size:
            return f"it would not get smaller: {primary} primary filters of {size} weights"
        return LinearConv2d.of(conv, ratio)

    return _swap(net, nn.Conv2d, make, "nn.Conv2d that can be linearized")


def stripe(net: nn.Module) -> Swaps:
    """Swap the convs of a network for `StripeConv2d`, which compute the same, with the same Parameters.

    Convs of kernel size 1 are left as they are: their stripes are whole filters. So are grouped convs, subclasses of
    nn.Conv2d, shared ones and those with hooks. Swap before optimizers are made, since every layer gets a skeleton.

    Args:
        net: that holds convs; it is changed in place.

    Raises:
        GDPError: the network has gates, or nothing can be swapped; nothing is changed then.
    """

    def make(conv: nn.Module) -> nn.Module | str:
        """Return the stripe conv, or why there is none."""
        reason = _reason_to_leave(conv)
        if reason or not isinstance(conv, nn.Conv2d):
            return reason
        return StripeConv2d.of(conv) if max(conv.kernel_size) > 1 else "its kernel has one position"

    return _swap(net, nn.Conv2d, make, "nn.Conv2d that can be striped")


def prune_stripes(net: nn.Module) -> Swaps:
    """Remove the stripes whose skeleton is at 0: every `StripeConv2d` becomes a `ShiftedConv2d` of those that are left.

    The network computes what it did, to float rounding. A layer that has lost no stripe becomes a plain conv.

    Args:
        net: that holds layers which `stripe` has made, trained; it is changed in place.

    Raises:
        GDPError: the network has gates, or no such layer.
    """

    def make(layer: nn.Module) -> nn.Module | str:
        """Return the stripes that are left."""
        if not isinstance(layer, StripeConv2d):
            return ""
        return layer.fold() if bool((layer.skeleton != 0).all()) else ShiftedConv2d.of(layer)

    return _swap(net, StripeConv2d, make, "StripeConv2d (see gdp.layers.stripe)")


def fold(net: nn.Module) -> Swaps:
    """Turn every layer of this package back into a plain nn.Conv2d that computes the same, to float rounding.

    Plain convs have all their FLOPs again: what linear combinations and missing stripes have saved is lost.

    Args:
        net: that holds such layers; it is changed in place.

    Raises:
        GDPError: the network has gates, or no such layer.
    """
    return _swap(net, LAYERS, to_conv, "layer of gdp.layers")


def to_conv(layer: nn.Module) -> nn.Module:
    """Return the plain conv that a layer of this package can be folded to; any other layer as it is.

    Args:
        layer: any.
    """
    return layer.fold() if isinstance(layer, LAYERS) else layer


def set_module(net: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another.

    Args:
        net: that holds it.
        name: of the place, as `named_modules` gives it.
        module: the new one.
    """
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)


def _swap(net: nn.Module, of_type: type | tuple[type, ...], make: Make, wanted: str) -> Swaps:
    """Swap layers of a type, all of them or, on an error, none.

    Args:
        net: that holds them.
        of_type: of the layers.
        make: gives the new layer, or the reason against it.
        wanted: the layers in words, for the message.

    Raises:
        GDPError: the network has gates, is such a layer itself, or none could be swapped.
    """
    if not isinstance(net, nn.Module):
        raise GDPError(f"Expected a network with layers to swap, but got {type(net).__name__}.")
    check_ungated(net)
    if isinstance(net, of_type):
        raise GDPError(
            f"Expected a network that holds layers, but got a single {type(net).__name__}; put it into an "
            "nn.Sequential to have it swapped in place."
        )
    # make all new layers before any takes its place
    named: list[tuple[str, nn.Module]] = list(net.named_modules(remove_duplicate=False))
    bound, new, left = _bound_modules(net), {}, {}
    for name, module in named:
        if isinstance(module, of_type):
            made = bound.get(id(module)) or make(module)
            if isinstance(made, str):
                left[plain_name(name)] = made
            else:
                new[name] = (module, made)
    if not new:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:5])
        raise GDPError(f"{type(net).__name__} has no {wanted}{f' ({reasons})' if reasons else ''}.")
    for name, (module, made) in new.items():
        if not any(p.requires_grad for p in module.parameters()):
            made.requires_grad_(False)
        set_module(net, name, made)
    return Swaps(tuple(_compared(plain_name(name), *pair) for name, pair in new.items()), left)


def _bound_modules(net: nn.Module) -> dict[int, str]:
    """Return the ids of modules that can't be swapped one by one, and why: shared ones and parts of other layers.

    Args:
        net: that holds them.
    """
    named = list(net.named_modules(remove_duplicate=False))
    modules = {id(module): module for _, module in named}
    names = Counter(id(module) for _, module in named)
    owners = Counter(id(p) for module in modules.values() for p in module.parameters(recurse=False))
    found = {
        key: "it, or a parameter of it, is used in several places"
        for key, module in modules.items()
        if names[key] > 1 or any(owners[id(p)] > 1 for p in module.parameters(recurse=False))
    }
    for layer in modules.values():
        if isinstance(layer, LAYERS):
            reason = f"it is part of a {type(layer).__name__}"
            found |= {id(part): reason for part in layer.modules() if part is not layer}
    return found


def _compared(name: str, old: nn.Module, new: nn.Module) -> Swap:
    """Return the record of a swap.

    Args:
        name: of the layer.
        old: that was there.
        new: that is there now.
    """
    with torch.no_grad():
        was, now = _filters(old), _filters(new)
        difference = float((was - now).norm() / was.norm().clamp_min(torch.finfo(was.dtype).tiny))
    return Swap(name, count_parameters(old), count_parameters(new), difference)


def _filters(layer: nn.Module) -> torch.Tensor:
    """Return the filters of a layer as those of a plain conv, float64."""
    conv = to_conv(layer)
    assert isinstance(conv, nn.Conv2d)
    return conv.weight.double()


def _reason_to_leave(conv: nn.Module) -> str:
    """Return why a conv can't be swapped, whatever for; empty if it can.

    Args:
        conv: of a network.
    """
    if type(conv) is not nn.Conv2d:
        return f"it is a {type(conv).__name__}, which may compute in its own way"
    if conv.groups > 1:
        return f"it has {conv.groups} groups"
    if "weight" not in conv._parameters or conv._forward_hooks or conv._forward_pre_hooks:
        return "it has hooks, which may use its weight"
    if conv.weight.is_meta or not bool(conv.weight.isfinite().all()):
        return "its weights are not finite numbers"
    return ""
