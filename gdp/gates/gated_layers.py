"""Gated layers: the weights that read channel groups, and the gates beside them.

Beside the weight of a reading layer lies a buffer with its gate; once gates begin to move, the layer's class gets a
property in place of the weight. The Parameter keeps its name, place and identity: optimizers, parameter groups, DDP and
averaging see the network they have always seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gdp.utils import GATE_SUFFIX

# elements of a weight from which it pays to save memory and passes over it
RECOMPUTE_NUMEL = 2**16
# a layer that reads this many times fewer activations than it has weights has its input gated
INPUT_GATING_RATIO = 4

PRODUCT_KEY = "_gdp_product"  # in a layer's __dict__: the gated weight, while the layer computes
VIEW_KEY = "_gdp_view"  # in a layer's __dict__: the WeightView of its network


class WeightView:
    """Say what `layer.weight` is in the gated layers of one network, outside of their own `forward`.

    Attributes:
        shows_parameter: it is the Parameter, not the product of weight and gate. So it is while the hooks of a run have
            their turn and nobody computes: a hook that asks for a weight means to log its norm, or to clip it.
    """

    def __init__(self) -> None:
        self.shows_parameter = False


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


@cache
def _gated_class(cls: Any, tensor: str, private: bool) -> Any:
    """Return a subclass of a layer's class that computes with the gated weight.

    Args:
        cls: class of the layer.
        tensor: name of the weight in it.
        private: nobody but the layer itself computes with the weight.
    """

    def product(self: nn.Module) -> Tensor | None:
        weight, gate = self._parameters[tensor], self._buffers[tensor + GATE_SUFFIX]
        return None if weight is None or gate is None else gated_weight(weight, gate)

    def gated(self: nn.Module) -> Tensor | None:
        if PRODUCT_KEY in self.__dict__:
            found: Tensor | None = self.__dict__[PRODUCT_KEY]
            return found
        view = None if _is_traced() or not private else self.__dict__.get(VIEW_KEY)
        return self._parameters[tensor] if view is not None and view.shows_parameter else product(self)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        weight, gate = self._parameters[tensor], self._buffers[tensor + GATE_SUFFIX]
        if weight is None or gate is None or _is_traced():
            return cls.forward(self, *args, **kwargs)

        # gate the input or the weight, whichever is cheaper
        large = weight.numel() >= RECOMPUTE_NUMEL
        hooks: Any = nullcontext()
        used: Tensor = weight
        if large and _input_is_smaller(self, cls, weight, gate, args):
            args = (args[0] * gate.to(weight.dtype).view(gate.shape[1:]), *args[1:])
        else:
            used = gated_weight(weight, gate)
            if large and torch.is_grad_enabled() and _saved_tensor_hooks_are_free():
                hooks = saved_tensors_hooks(*_recomputed(weight, gate, used))

        outer = self.__dict__.get(PRODUCT_KEY)  # a forward may call itself
        self.__dict__[PRODUCT_KEY] = used
        try:
            with hooks:
                return cls.forward(self, *args, **kwargs)
        finally:
            self.__dict__[PRODUCT_KEY] = outer
            if outer is None:
                del self.__dict__[PRODUCT_KEY]

    def reduce(self: nn.Module, protocol: Any) -> Any:
        # pickle and deepcopy know no class made on the way; a copy is no part of the run whose hooks have their turn
        state = {key: value for key, value in self.__dict__.items() if key != VIEW_KEY}
        return _new_gated_layer, (cls, tensor, private), state

    gating = {tensor: property(gated), "forward": forward, "__reduce_ex__": reduce, "__module__": __name__}
    return type(f"Gated{cls.__name__}", (cls,), gating)


def _input_is_smaller(layer: Any, cls: Any, weight: Tensor, gate: Tensor, args: tuple[Any, ...]) -> bool:
    """Return whether a layer reads so few activations that it is cheaper to gate them than its weight.

    Args:
        layer: the gated layer.
        cls: its class before it was gated.
        weight: its weight.
        gate: beside the weight.
        args: of its forward.
    """
    if not args or not isinstance(args[0], Tensor) or args[0].numel() * INPUT_GATING_RATIO > weight.numel():
        return False
    conv = cls.forward in (nn.Conv1d.forward, nn.Conv2d.forward) and layer.groups == 1 and args[0].dim() == weight.dim()
    own = conv and cls._conv_forward not in (nn.Conv1d._conv_forward, nn.Conv2d._conv_forward)
    plain = cls.forward is nn.Linear.forward or (conv and not own)
    along_inputs = gate.shape[1] == weight.shape[1] and gate.numel() == gate.shape[1]
    same_type = args[0].dtype == weight.dtype and not torch.is_autocast_enabled(weight.device.type)
    return plain and along_inputs and same_type


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _new_gated_layer(cls: Any, tensor: str, private: bool) -> Any:
    """Return an empty gated layer, for pickle to fill."""
    gated_cls = _gated_class(cls, tensor, private)
    return gated_cls.__new__(gated_cls)


def _recomputed(weight: Tensor, gate: Tensor, used: Tensor) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    """Return hooks by which autograd keeps the gated weight as its two factors.

    Else a second copy of all weights would live from the forward to the backward pass.

    Args:
        weight: the Parameter.
        gate: beside it.
        used: their product.
    """
    place, numel, dtype = used.data_ptr(), used.numel(), used.dtype  # not `used` itself, which is not to live on
    versions = (weight._version, gate._version)

    def pack(saved: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...]]:
        its = saved.data_ptr() == place and saved.numel() == numel and saved.dtype == dtype
        return (saved.shape, saved.stride()) if its else saved  # a linear layer saves a transposed view

    def unpack(saved: Tensor | tuple[torch.Size, tuple[int, ...]]) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if (weight._version, gate._version) != versions:
            raise RuntimeError(
                "a weight that is needed for the gradient has been changed in place between forward and backward; call "
                "backward before the optimizer's step, or run forward again"
            )
        return gated_weight(weight.detach(), gate).as_strided(*saved)

    return pack, unpack


def _saved_tensor_hooks_are_free() -> bool:
    """Return whether no one else decides what autograd keeps; activation checkpointing does, for instance."""
    autograd: Any = torch._C._autograd
    return autograd._saved_tensors_hooks_is_enabled() and autograd._top_saved_tensors_default_hooks(True) is None


@dataclass(frozen=True)
class GatedWeight:
    """A weight that reads channel groups along one dimension, and its gate.

    Attributes:
        module: the layer that holds the weight.
        tensor: name of the weight in it.
        dim: dimension along which channels are read.
        index: the channel (in the flat vector of all gates) that every entry along `dim` reads, shape (size along
            dim,); the last place of the flat vector is the gate that is always open.
        private: nobody but the layer itself computes with the weight.
    """

    module: nn.Module
    tensor: str
    dim: int
    index: Tensor
    private: bool = False

    @property
    def weight(self) -> nn.Parameter:
        """The trained parameter, without its gate."""
        weight = self.module._parameters[self.tensor]
        assert weight is not None
        return weight

    @property
    def gate(self) -> Tensor:
        """The buffer beside the weight, shaped to be multiplied with it."""
        gate: Tensor = getattr(self.module, self.tensor + GATE_SUFFIX)
        return gate

    @property
    def is_registered(self) -> bool:
        """Whether the gate is there."""
        return hasattr(self.module, self.tensor + GATE_SUFFIX)

    def register(self) -> None:
        """Put an open gate beside the weight."""
        shape = [1] * self.weight.dim()
        shape[self.dim] = -1
        ones = torch.ones(len(self.index), dtype=torch.float32, device=self.weight.device).view(shape)
        self.module.register_buffer(self.tensor + GATE_SUFFIX, ones)

    def activate(self, view: WeightView) -> None:
        """Let the layer compute with its gated weight from now on; until then its `weight` is the plain Parameter.

        Args:
            view: of the network that the layer belongs to.
        """
        cls: Any = type(self.module)
        if not _is_gated(cls):  # a deep copy of a gated layer is
            self.module.__class__ = _gated_class(cls, self.tensor, self.private)
        self.module.__dict__[VIEW_KEY] = view

    def unregister(self) -> None:
        """Take the gate away; the weight itself is not changed."""
        make_plain(self.module)
        if self.is_registered:
            delattr(self.module, self.tensor + GATE_SUFFIX)


def make_plain(layer: nn.Module) -> None:
    """Give a layer the class back that it had before it was gated."""
    layer.__dict__.pop(VIEW_KEY, None)
    if _is_gated(type(layer)):
        layer.__class__ = type(layer).__mro__[1]


def _is_gated(cls: type) -> bool:
    return cls.__module__ == __name__
