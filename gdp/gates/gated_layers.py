"""Gated layers: the weights that read channel groups, and the gates beside them.

Beside a weight that reads channels lies a buffer with its gate; once gates begin to move, the layer's class gets a
property in place of each such weight. The Parameter keeps its name, place and identity: optimizers, parameter groups,
DDP and averaging see the network they have always seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gdp.gates.recurrent import RECURRENT, recurrent_bases
from gdp.utils import GATE_SUFFIX

# elements of a weight from which it pays to save memory and passes over it
RECOMPUTE_NUMEL = 2**16
# a layer that reads this many times fewer activations than it has weights has its input gated
INPUT_GATING_RATIO = 4

PRODUCTS_KEY = "_gdp_products"  # in a layer's __dict__: name of a gated weight -> what it computes with, meanwhile
VIEW_KEY = "_gdp_view"  # in a layer's __dict__: the WeightView of its network
MARK_KEY = "_gdp_mark"  # in a layer's __dict__: what tells the gates of copies of the layer

GatedTensors = tuple[tuple[str, bool], ...]  # names of gated weights, and whether nobody but their layer uses them


class WeightView:
    """Say what `layer.weight` is in the gated layers of one network, outside of their own `forward`.

    Attributes:
        shows_parameter: it is the Parameter, not the product of weight and gate. So it is while the hooks of a run have
            their turn and nobody computes: a hook that asks for a weight means to log its norm, or to clip it.
        straight_through: closed gates let gradients through to the weights, as if they were open. Recurrent layers,
            whose input is gated, do not.
    """

    def __init__(self) -> None:
        self.shows_parameter = False
        self.straight_through = False


@contextmanager
def products_shown(model: nn.Module) -> Iterator[None]:
    """Let `layer.weight` be the product in all gated layers of a module for a while, whatever hooks have their turn.

    Args:
        model: that holds gated layers, maybe of several networks.
    """
    views = {id(view): view for m in model.modules() if (view := m.__dict__.get(VIEW_KEY)) is not None}
    shown = [view for view in views.values() if view.shows_parameter]
    for view in shown:
        view.shows_parameter = False
    try:
        yield
    finally:
        for view in shown:
            view.shows_parameter = True


def gated_weight(weight: Tensor, gate: Tensor) -> Tensor:
    """Return what a layer computes with: the product of its weight and its gate.

    Args:
        weight: of any shape.
        gate: float32, of size 1 along all dimensions of the weight but one.
    """
    factor = gate.to(weight.dtype)
    if weight.numel() >= RECOMPUTE_NUMEL and weight.dim() > 2 and len(gate) == 1 and weight.is_contiguous():
        factor = factor.expand(1, *weight.shape[1:]).contiguous()  # one long row is multiplied several times as fast
    return weight * factor


def _product(layer: nn.Module, weight: Tensor, gate: Tensor) -> Tensor:
    """Return what a layer of a network computes with, whose closed gates may let gradients through.

    Args:
        layer: that holds weight and gate.
        weight: of any shape.
        gate: float32, of size 1 along all dimensions of the weight but one.
    """
    found = gated_weight(weight, gate)
    if _is_straight_through(layer):
        return found + (weight - weight.detach()) * (gate == 0).to(weight.dtype)
    return found


def _is_straight_through(layer: nn.Module) -> bool:
    view = layer.__dict__.get(VIEW_KEY)
    return view is not None and view.straight_through


def gate_layer(layer: nn.Module, tensor: str, private: bool, view: WeightView) -> None:
    """Let a layer compute with a gated weight from now on, in addition to others of its weights that are gated already.

    Args:
        layer: with the gate beside the weight.
        tensor: name of the weight in it.
        private: nobody but the layer itself computes with the weight.
        view: of the network that the layer belongs to.
    """
    cls: Any = type(layer)
    plain, tensors = (cls.plain_class, cls.gated_tensors) if _is_gated(cls) else (cls, ())
    if tensor not in dict(tensors):  # in a deep copy of a gated layer it is
        layer.__class__ = _gated_class(plain, (*tensors, (tensor, private)))
    layer.__dict__[VIEW_KEY] = view


def make_plain(layer: nn.Module) -> None:
    """Give a layer the class back that it had before its weights were gated, and leave nothing in it."""
    layer.__dict__.pop(VIEW_KEY, None)
    layer.__dict__.pop(MARK_KEY, None)
    cls: Any = type(layer)
    if _is_gated(cls):
        layer.__class__ = cls.plain_class


def _is_gated(cls: type) -> bool:
    return cls.__module__ == __name__


@cache
def _gated_class(cls: Any, tensors: GatedTensors) -> Any:
    """Return a subclass of a layer's class that computes with gated weights.

    Args:
        cls: class of the layer.
        tensors: the gated weights.
    """

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        gated = {name: pair for name, _ in tensors if (pair := _factors(self, name)) is not None}
        if not gated or _is_traced():
            return cls.forward(self, *args, **kwargs)

        # gate the input or the weights, whichever is cheaper
        used: dict[str, Tensor] = {name: weight for name, (weight, _) in gated.items()}
        hooks: AbstractContextManager[Any] = nullcontext()
        if _input_is_smaller(self, cls, gated, args):
            ((weight, gate),) = gated.values()
            args = (args[0] * gate.to(weight.dtype).view(gate.shape[1:]), *args[1:])
        else:
            used = {name: _product(self, *factors) for name, factors in gated.items()}
            hooks = _recomputed(gated, used)

        outer = self.__dict__.get(PRODUCTS_KEY)  # a forward may call itself
        self.__dict__[PRODUCTS_KEY] = used
        try:
            with hooks:
                return cls.forward(self, *args, **kwargs)
        finally:
            self.__dict__[PRODUCTS_KEY] = outer
            if outer is None:
                del self.__dict__[PRODUCTS_KEY]

    def reduce(self: nn.Module, protocol: Any) -> Any:
        # pickle can't find a class that was made at run time, so it gets the function that makes it; the view belongs
        # to the run of the original, and a copy always computes with the product
        found: Any = self.__getstate__() if hasattr(cls, "__getstate__") else self.__dict__
        return _new_gated_layer, (cls, tensors), {key: value for key, value in found.items() if key != VIEW_KEY}

    names = {"__reduce_ex__": reduce, "__module__": __name__, "gated_tensors": tensors, "plain_class": cls}
    if issubclass(cls, RECURRENT):
        return type(f"Gated{cls.__name__}", recurrent_bases(cls, tensors[0][0]), names)
    weights = {name: _gated_property(name, private) for name, private in tensors}
    return type(f"Gated{cls.__name__}", (cls,), {**weights, **names, "forward": forward})


def _gated_property(tensor: str, private: bool) -> property:
    """Return the property that stands in the place of a weight.

    Args:
        tensor: name of the weight.
        private: nobody but the layer itself computes with it.
    """

    def gated(self: nn.Module) -> Tensor | None:
        if tensor in self.__dict__.get(PRODUCTS_KEY, ()):
            found: Tensor = self.__dict__[PRODUCTS_KEY][tensor]
            return found
        view = None if _is_traced() or not private else self.__dict__.get(VIEW_KEY)
        factors = None if view is not None and view.shows_parameter else _factors(self, tensor)
        return self._parameters[tensor] if factors is None else _product(self, *factors)

    return property(gated)


def _factors(layer: nn.Module, tensor: str) -> tuple[nn.Parameter, Tensor] | None:
    """Return a weight and the gate beside it, or None where one of them is not there.

    Args:
        layer: that holds them.
        tensor: name of the weight.
    """
    weight, gate = layer._parameters[tensor], layer._buffers[tensor + GATE_SUFFIX]
    return None if weight is None or gate is None else (weight, gate)


def _input_is_smaller(layer: Any, cls: Any, gated: Mapping[str, tuple[Tensor, Tensor]], args: tuple[Any, ...]) -> bool:
    """Return whether a layer reads so few activations that it is cheaper to gate them than its weight.

    Args:
        layer: the gated layer.
        cls: its class before it was gated.
        gated: its weights and their gates.
        args: of its forward.
    """
    weight, gate = next(iter(gated.values()))
    if weight.numel() < RECOMPUTE_NUMEL or list(gated) != ["weight"] or not args or not isinstance(args[0], Tensor):
        return False
    if args[0].numel() * INPUT_GATING_RATIO > weight.numel() or _is_straight_through(layer):
        return False
    conv = cls.forward in (nn.Conv1d.forward, nn.Conv2d.forward) and layer.groups == 1 and args[0].dim() == weight.dim()
    own = conv and cls._conv_forward not in (nn.Conv1d._conv_forward, nn.Conv2d._conv_forward)
    plain = cls.forward is nn.Linear.forward or (conv and not own)
    along_inputs = gate.shape[1] == weight.shape[1] and gate.numel() == gate.shape[1]
    same_type = args[0].dtype == weight.dtype and not torch.is_autocast_enabled(weight.device.type)
    return plain and along_inputs and same_type


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _new_gated_layer(cls: Any, tensors: GatedTensors) -> Any:
    """Return an empty gated layer, for pickle to fill."""
    gated_cls = _gated_class(cls, tensors)
    return gated_cls.__new__(gated_cls)


def _recomputed(gated: Mapping[str, tuple[Tensor, Tensor]], used: Mapping[str, Tensor]) -> AbstractContextManager[Any]:
    """Return a context in which autograd keeps large gated weights as their two factors.

    Else a second copy of all weights would live from the forward to the backward pass.

    Args:
        gated: Parameters and the gates beside them.
        used: their products.
    """
    large = [name for name, (weight, _) in gated.items() if weight.numel() >= RECOMPUTE_NUMEL]
    if not large or not torch.is_grad_enabled() or not _saved_tensor_hooks_are_free():
        return nullcontext()
    # by the place of the product in memory, not by `used` itself, which is not to live on
    kept = {used[name].data_ptr(): (*gated[name], used[name].numel(), used[name].dtype) for name in large}
    versions = {place: (weight._version, gate._version) for place, (weight, gate, *_) in kept.items()}

    def pack(saved: Tensor) -> Tensor | tuple[int, torch.Size, tuple[int, ...]]:
        place = saved.data_ptr()
        its = place in kept and (saved.numel(), saved.dtype) == kept[place][2:]
        return (place, saved.shape, saved.stride()) if its else saved  # a linear layer saves a transposed view

    def unpack(saved: Tensor | tuple[int, torch.Size, tuple[int, ...]]) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        place, shape, stride = saved
        weight, gate, *_ = kept[place]
        if (weight._version, gate._version) != versions[place]:
            raise RuntimeError(
                "a weight that is needed for the gradient has been changed in place between forward and backward; call "
                "backward before the optimizer's step, or run forward again"
            )
        return gated_weight(weight.detach(), gate).as_strided(shape, stride)

    return saved_tensors_hooks(pack, unpack)


def _saved_tensor_hooks_are_free() -> bool:
    """Return whether no one else decides what autograd keeps; activation checkpointing does, for instance."""
    autograd: Any = torch._C._autograd
    return autograd._saved_tensors_hooks_is_enabled() and autograd._top_saved_tensors_default_hooks(True) is None
