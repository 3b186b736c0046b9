"""Readers: the weights that read channel groups, and the gates beside them.

Beside the weight of a reading layer lies a buffer with its gate; once gates begin to move, the layer's class gets a
property in place of the weight. The Parameter keeps its name, place and identity: optimizers, parameter groups, DDP and
averaging see the network they have always seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gdp.graph import ChannelGraph
from gdp.utils import GATE_SUFFIX

RECOMPUTE_NUMEL = 2**16  # elements of a weight from which it pays to save memory and passes over it
PRODUCT_KEY = "_gdp_product"  # the gated weight, while its layer computes
INPUT_GATING_RATIO = 4  # a layer that reads this many times fewer activations than it has weights has its input gated


def gated_weight(weight: Tensor, gate: Tensor) -> Tensor:
    """What a layer computes with."""
    factor = gate.to(weight.dtype)
    if weight.numel() >= RECOMPUTE_NUMEL and weight.dim() > 2 and len(gate) == 1 and weight.is_contiguous():
        factor = factor.expand(1, *weight.shape[1:]).contiguous()  # one long row is multiplied several times as fast
    return weight * factor


class Hooks:
    """Whether the hooks of a run have their turn, between a backward pass and the next batch, and nobody computes.

    Whoever asks for `layer.weight` then means the Parameter: to log its norm, or to clip it.
    """

    run = False


HOOKS = Hooks()


@cache
def _gated_class(cls: Any, tensor: str, own: bool) -> Any:
    def product(self: nn.Module) -> Tensor | None:
        weight, gate = self._parameters[tensor], self._buffers[tensor + GATE_SUFFIX]
        return None if weight is None or gate is None else gated_weight(weight, gate)

    def gated(self: nn.Module) -> Tensor | None:
        if PRODUCT_KEY in self.__dict__:
            return self.__dict__[PRODUCT_KEY]
        return self._parameters[tensor] if own and HOOKS.run and not _is_traced() else product(self)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        weight, gate = self._parameters[tensor], self._buffers[tensor + GATE_SUFFIX]
        if weight is None or gate is None or _is_traced():
            return cls.forward(self, *args, **kwargs)
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

    def reduce(self: nn.Module, protocol: Any) -> Any:  # pickle and deepcopy know no class made on the way
        return _new, (cls, tensor, own), self.__dict__

    gating = {tensor: property(gated), "forward": forward, "__reduce_ex__": reduce, "__module__": __name__}
    return type(f"Gated{cls.__name__}", (cls,), gating)


def _input_is_smaller(layer: Any, cls: Any, weight: Tensor, gate: Tensor, args: tuple[Any, ...]) -> bool:
    """Whether a layer reads so few activations that it is cheaper to multiply them with the gate than its weight."""
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


def _new(cls: Any, tensor: str, own: bool) -> Any:
    """An empty gated layer, for pickle to fill."""
    gated_cls = _gated_class(cls, tensor, own)
    return gated_cls.__new__(gated_cls)


def _recomputed(weight: Tensor, gate: Tensor, used: Tensor) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    """Hooks by which autograd keeps the gated weight as its two factors: else a second copy of all weights would live
    from the forward to the backward pass."""
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
    """Whether no one else decides what autograd keeps; activation checkpointing does, for instance."""
    autograd: Any = torch._C._autograd
    return autograd._saved_tensors_hooks_is_enabled() and autograd._top_saved_tensors_default_hooks(True) is None


@dataclass(frozen=True)
class GatedWeight:
    """A gated weight: `index[i]` is the channel (in the flat vector of all gates) that entry i along `dim` reads."""

    module: nn.Module
    tensor: str
    dim: int
    index: Tensor  # (size along dim,); the last place of the flat vector is the gate that is always open
    private: bool = False  # nobody but the layer itself computes with the weight

    @property
    def weight(self) -> nn.Parameter:
        """The trained parameter, without its gate."""
        weight = self.module._parameters[self.tensor]
        assert weight is not None
        return weight

    @property
    def gate(self) -> Tensor:
        """The buffer beside the weight, shaped to be multiplied with it."""
        gate = self.module._buffers[self.tensor + GATE_SUFFIX]
        assert gate is not None
        return gate


def find_gated_weights(
    model: nn.Module, graph: ChannelGraph, spans: dict[str, slice], always_open: int
) -> list[GatedWeight]:
    """All gated weights of a network; `spans` are the places of every group in the flat vector of all gates."""
    index: dict[tuple[str, int], Tensor] = {}
    for group in graph.groups:
        channels = torch.arange(spans[group.name].start, spans[group.name].stop)
        for axis in group.reads:
            size = graph.shapes[axis.tensor][axis.dim]
            entry = index.setdefault((axis.tensor, axis.dim), torch.full((size,), always_open))
            entry[axis.index] = channels[:, None].expand_as(axis.index)
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for tensor, parameter in module._parameters.items():
            owners.setdefault(id(parameter), []).append((module, tensor))
    found = []
    for (name, dim), entry in index.items():
        for module, tensor in owners[id(model.get_parameter(name))]:
            own = name in graph.private_weights and tensor == "weight" and not module._forward_pre_hooks
            found.append(
                GatedWeight(module, tensor, dim, entry, own and len(owners[id(module._parameters[tensor])]) == 1)
            )
    return found


def register(reader: GatedWeight) -> None:
    """Put an open gate beside a weight."""
    shape = [1] * reader.weight.dim()
    shape[reader.dim] = -1
    ones = torch.ones(len(reader.index), dtype=torch.float32, device=reader.weight.device).view(shape)
    reader.module.register_buffer(reader.tensor + GATE_SUFFIX, ones)


def activate(reader: GatedWeight) -> None:
    """From now on the layer computes with its gated weight. Until then its `weight` is the plain Parameter."""
    cls: Any = type(reader.module)
    if not _is_gated(cls):  # a deep copy of a gated layer is
        reader.module.__class__ = _gated_class(cls, reader.tensor, reader.private)


def unregister(reader: GatedWeight) -> None:
    """Take the gate of one weight away; the weight itself is not changed."""
    cls = type(reader.module)
    if _is_gated(cls):
        reader.module.__class__ = cls.__mro__[1]
    reader.module._buffers.pop(reader.tensor + GATE_SUFFIX, None)


def fold_copies(module: nn.Module, known: Iterable[GatedWeight]) -> None:
    """Multiply gates into the weights behind them, and take them away, in all layers but the known ones: in copies."""
    kept, folded = {id(reader.module) for reader in known}, set()
    for layer in module.modules():
        for name in [name for name in layer._buffers if name.endswith(GATE_SUFFIX) and id(layer) not in kept]:
            weight, gate = layer._parameters[name.removesuffix(GATE_SUFFIX)], layer._buffers.pop(name)
            if _is_gated(type(layer)):
                layer.__class__ = type(layer).__mro__[1]
            if weight is not None and gate is not None and id(weight) not in folded:
                folded.add(id(weight))
                weight.data = weight.data * gate.to(weight.dtype)


def _is_gated(cls: type) -> bool:
    return cls.__module__ == __name__
