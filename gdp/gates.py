"""Gates: one vector per channel group, multiplied onto the input axis of every conv and linear that reads the group.

`conv(g * x, W) == conv(x, W * g)`, so a gate in front of a conv (GDP, figure 2) costs O(weights) instead of
O(activations). Beside the weight of a reading layer lies a buffer with its gate; once gates begin to move, the layer's
class gets a property in place of the weight. The Parameter keeps its name, place and identity: optimizers, parameter
groups, DDP and averaging see the network they have always seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.graph import ChannelGraph

SUFFIX = "_gdp_gate"  # the buffer beside a gated weight: `conv.weight` has `conv.weight_gdp_gate`


def polar(x: Tensor, eps: float) -> Tensor:
    """The polar gate of GDP, `x^2 / (x^2 + eps)`, scaled by `1 + eps` so that x = 1 is exactly open.

    The factor belongs to the following conv anyway, which absorbs it; with it, inserting gates changes nothing.
    0 is closed and a fixed point (the slope there is 0), the slope peaks at sqrt(eps / 3) and vanishes for large x.

    >>> polar(torch.tensor([0.0, 1.0]), 0.1).tolist()
    [0.0, 1.0]
    """
    square = x * x
    return torch.where(x >= 1, 1.0, (1 + eps) * square / (square + eps))


@cache
def _gated_class(cls: Any, tensor: str) -> Any:
    def gated(self: nn.Module) -> Tensor | None:
        weight, gate = self._parameters[tensor], self._buffers[tensor + SUFFIX]
        return None if weight is None or gate is None else weight * gate.to(weight.dtype)

    return type(f"Gated{cls.__name__}", (cls,), {tensor: property(gated), "__module__": __name__})


@dataclass(frozen=True)
class Reader:
    """A gated weight: `index[i]` is the channel (in the flat vector of all gates) that entry i along `dim` reads."""

    module: nn.Module
    tensor: str
    dim: int
    index: Tensor  # (size along dim,); the last place of the flat vector is the gate that is always open

    @property
    def weight(self) -> nn.Parameter:
        """The trained parameter, without its gate."""
        weight = self.module._parameters[self.tensor]
        assert weight is not None
        return weight

    @property
    def gate(self) -> Tensor:
        """The buffer beside the weight, shaped to be multiplied with it."""
        gate = self.module._buffers[self.tensor + SUFFIX]
        assert gate is not None
        return gate


@dataclass(frozen=True)
class Gate:
    """The gate of one channel group; `raw` and `value` have shape (channels,)."""

    name: str
    raw: Tensor
    eps: float

    @property
    def value(self) -> Tensor:
        """What the channels are multiplied with: 0.0 is closed, 1.0 is open."""
        return polar(self.raw, self.eps)


class Gates:
    """All gates of a network. Their state is float32 and no parameter: no optimizer, decay or scaler touches it.

    Attributes:
        raw: the x of every gate, shape (channels of all groups,), in [0, 1]; 0.0 is closed for good.
        eps: sharpness of the polar gate, annealed from about 0.1 to 1e-4.
        readers: the gated weights.
        index: the index vectors of all readers, one after the other.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, eps: float = 0.1) -> None:
        self.model = model
        self.graph = graph
        self.eps = eps
        sizes = [g.size for g in graph.groups]
        self.raw = torch.ones(sum(sizes), dtype=torch.float32)
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.spans = {g.name: slice(starts[i], starts[i + 1]) for i, g in enumerate(graph.groups)}
        self.group_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        self.readers = _readers(model, graph, self.spans, len(self.raw))
        self.index = torch.cat([torch.empty(0, dtype=torch.long), *(r.index for r in self.readers)])
        self._acting = False
        for reader in self.readers:
            attach(reader)

    def __getitem__(self, name: str) -> Gate:
        return Gate(name, self.raw[self._span(name)], self.eps)

    def _span(self, name: str) -> slice:
        if name not in self.spans:
            raise GDPError(f"There is no gate {name!r}; the gates are: {', '.join(self.spans)}.")
        return self.spans[name]

    @property
    def values(self) -> Tensor:
        """All gates in one vector, shape (channels,)."""
        return polar(self.raw, self.eps)

    @property
    def opened(self) -> Tensor:
        """Channels per group that are not closed, shape (groups,), on the CPU."""
        is_open = (self.raw > 0).long().cpu()
        return torch.zeros(len(self.spans), dtype=torch.long).index_add_(0, self.group_of, is_open)

    @property
    def closed(self) -> dict[str, list[int]]:
        """Indices of the closed channels of every group that has some."""
        zeros = {name: torch.nonzero(self.raw[span] == 0).flatten().tolist() for name, span in self.spans.items()}
        return {name: indices for name, indices in zeros.items() if indices}

    def close(self, name: str, indices: Sequence[int] | Tensor) -> None:
        """Close channels of a group for good.

        Raises:
            GDPError: there is no such group or channel, or none would be left.
        """
        span = self._span(name)
        size = span.stop - span.start
        index = torch.as_tensor(indices).flatten()
        if index.dtype == torch.bool and len(index) == size:
            index = torch.nonzero(index).flatten()
        if len(index) and (index.is_floating_point() or index.dtype == torch.bool):
            raise GDPError(f"Expected channel indices of {name!r}, or {size} bools, but got {indices!r}.")
        index = index.long()
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < size):
            raise GDPError(f"Expected channel indices of {name!r} in [0, {size - 1}], but got {index.tolist()}.")
        raw = self.raw[span].clone()
        raw[index] = 0.0
        if not bool((raw > 0).any()) and not any(name in block.groups for block in self.graph.blocks):
            raise GDPError(f"Closing all {size} channels of {name!r} would cut the network in two; leave at least one.")
        self.raw[span] = raw
        if self.inserted:
            self.sync()

    def sync(self) -> None:
        """Write the gates' values beside the weights they act on, and let them act from now on."""
        if not self._acting:
            self._acting = True
            for reader in self.readers:
                act(reader)
        values = torch.cat([self.values, self.raw.new_ones(1)])[self.index]
        parts = values.split([len(r.index) for r in self.readers])
        for reader, part in zip(self.readers, parts, strict=True):
            gate = reader.gate
            gate.copy_(part.view(gate.shape))

    @property
    def inserted(self) -> bool:
        """Whether the gates are in the network."""
        return all(reader.tensor + SUFFIX in reader.module._buffers for reader in self.readers)

    def withdraw(self) -> None:
        """Take all gates away without a trace; the weights are not changed."""
        self._acting = False
        for reader in self.readers:
            detach(reader)

    def put_back(self) -> None:
        """Undo `withdraw`."""
        for reader in self.readers:
            attach(reader)
        self.sync()

    def to(self, device: torch.device) -> None:
        """Move the state to the device where the weights train."""
        self.raw, self.index = self.raw.to(device), self.index.to(device)


def insert_gates(model: nn.Module, graph: ChannelGraph) -> Gates:
    """Put a gate in front of every conv and linear that reads a group; the network computes what it did before.

    Raises:
        GDPError: the network has gates already, or the graph belongs to another network.
    """
    refuse_gated(model)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    canonical = {axis.tensor for group in graph.groups for axis in group.tensors}
    for name, shape in graph.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if name in canonical and found != shape:
            raise GDPError(
                f"The graph was traced with {name} of shape {shape}, but {type(model).__name__} has {found}; "
                "trace the network again."
            )
    return Gates(model, graph)


def refuse_gated(model: nn.Module) -> None:
    """Refuse a network that has gates.

    Raises:
        GDPError: it has.
    """
    if any(name.endswith(SUFFIX) for name, _ in model.named_buffers()):
        raise GDPError(
            f"This {type(model).__name__} has gates already, probably from a run that was interrupted. Finish it with "
            "gdp.remove(network, pruner.graph, pruner.gates), or take the gates away with pruner.gates.withdraw()."
        )


def _readers(model: nn.Module, graph: ChannelGraph, spans: dict[str, slice], always_open: int) -> list[Reader]:
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
            found.append(Reader(module, tensor, dim, entry))
    return found


def attach(reader: Reader) -> None:
    """Put an open gate beside a weight."""
    shape = [1] * reader.weight.dim()
    shape[reader.dim] = -1
    ones = torch.ones(len(reader.index), dtype=torch.float32, device=reader.weight.device).view(shape)
    reader.module.register_buffer(reader.tensor + SUFFIX, ones)


def act(reader: Reader) -> None:
    """From now on the layer computes with its gated weight. Until then its `weight` is the plain Parameter."""
    cls: Any = type(reader.module)
    reader.module.__class__ = _gated_class(cls, reader.tensor)


def detach(reader: Reader) -> None:
    """Take the gate of one weight away; the weight itself is not changed."""
    cls = type(reader.module)
    if cls.__module__ == __name__:
        reader.module.__class__ = cls.__mro__[1]
    reader.module._buffers.pop(reader.tensor + SUFFIX, None)
