"""The weights of a network that read channel groups: found in its layers, folded in its copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates.channel_tensors import channel_of_entries
from gdp.gates.gated_layers import WeightView, gate_layer, make_plain
from gdp.graph import ChannelGraph
from gdp.utils import GATE_SUFFIX, named_tensors, parameter_shapes, under_plain_names


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
        gate_layer(self.module, self.tensor, self.private, view)

    def unregister(self) -> None:
        """Take the gate away; the weight itself is not changed. Other gates of the layer do not act any more."""
        make_plain(self.module)
        if self.is_registered:
            delattr(self.module, self.tensor + GATE_SUFFIX)


def find_gated_weights(
    model: nn.Module, graph: ChannelGraph, spans: dict[str, slice], always_open: int
) -> list[GatedWeight]:
    """Return all weights of a network that read channel groups.

    Args:
        model: the network.
        graph: what `gdp.trace` found in it.
        spans: the places of every group in the flat vector of all gates.
        always_open: the place in it of the gate that is always open.
    """
    reads = ((axis, spans[group.name]) for group in graph.groups for axis in group.reads)
    index = channel_of_entries(graph, reads, always_open)

    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((module, name))

    found, tensors = [], named_tensors(model)
    for (name, dim), entry in index.items():
        holders = owners[id(tensors[name])]
        for module, tensor in holders:
            hooked = bool(module._forward_pre_hooks)  # which may compute with it
            private = name in graph.private_weights and tensor == "weight" and not hooked and len(holders) == 1
            found.append(GatedWeight(module, tensor, dim, entry, private))
    return found


def readers_in_copy(
    readers: Iterable[GatedWeight], original: nn.Module, copy: nn.Module
) -> list[tuple[int, GatedWeight]]:
    """Return the weights in a copy that are gated in its original, each with the place of that one among the readers.

    Args:
        readers: of the network.
        original: the network, or a part of it.
        copy: of the original, with the same parameters.

    Raises:
        GDPError: its tensors have other shapes.
    """
    if parameter_shapes(original) != parameter_shapes(copy):
        raise GDPError(
            f"Expected a copy of {type(original).__name__}, but {type(copy).__name__} has other parameters. Make the "
            "copy with copy.deepcopy, or torch.optim.swa_utils.AveragedModel."
        )
    modules = under_plain_names(copy, copy.named_modules())
    name_of = {id(module): name for name, module in under_plain_names(original, original.named_modules()).items()}
    places = [(place, reader) for place, reader in enumerate(readers) if id(reader.module) in name_of]
    return [(place, replace(reader, module=modules[name_of[id(reader.module)]])) for place, reader in places]


def fold_copies(module: nn.Module, known: Iterable[GatedWeight]) -> None:
    """Multiply gates into the weights behind them, and take them away, in all layers but the known ones: in copies.

    Args:
        module: that may hold copies of gated networks.
        known: gated weights that keep their gates.
    """
    kept, folded = {id(reader.module) for reader in known}, set()
    for layer in module.modules():
        gates = [name for name, _ in layer.named_buffers(recurse=False) if name.endswith(GATE_SUFFIX)]
        for name in gates if id(layer) not in kept else ():
            gate = layer.get_buffer(name)
            delattr(layer, name)
            make_plain(layer)
            weight = dict(layer.named_parameters(recurse=False, remove_duplicate=False)).get(
                name.removesuffix(GATE_SUFFIX)
            )
            if weight is not None and id(weight) not in folded:
                folded.add(id(weight))
                weight.data = weight.data * gate.to(weight.dtype)
