"""Gates: one vector per channel group, multiplied onto the input axis of every conv and linear that reads the group.

`conv(g * x, W) == conv(x, W * g)`, so a gate in front of a conv (GDP, figure 2) costs O(weights) instead of
O(activations).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates.functions import GateFunction, polar_gate
from gdp.gates.gated_layers import GatedWeight, activate, find_gated_weights, register, unregister
from gdp.graph import ChannelGraph
from gdp.report import History
from gdp.utils import GATE_SUFFIX, Difference, check_ungated


@dataclass(frozen=True)
class Gate:
    """The gate of one channel group; `raw` and `value` have shape (channels,)."""

    name: str
    gate_param: Tensor
    value: Tensor  # what the channels are multiplied with: 0.0 is closed, 1.0 is open


class Gates:
    """All gates of a network. Their state is float32 and no parameter: no optimizer, decay or scaler touches it.

    Attributes:
        raw: the x of every gate, shape (channels of all groups,), in [0, 1]; 0.0 is closed for good.
        temperature: of the function that makes a gate's value of its x; eps of the polar gate.
        readers: the gated weights.
        index: the index vectors of all readers, one after the other.
        gone: channels that were cut out of the network already, shape (channels of all groups,); all are closed.
        difference: the largest that these cuts made to the outputs, by rounding.
        history: what the gates were like on the way, if a pruner moved them.
        copies: copies of the network, or of its submodule of that name, which are gated and cut along.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, value: GateFunction | None = None, temperature: float = 0.1
    ) -> None:
        self.model = model
        self.graph = graph
        self.temperature = temperature
        self._value = value or polar_gate
        sizes = [g.size for g in graph.groups]
        self.gate_param = torch.ones(sum(sizes), dtype=torch.float32)
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.spans = {g.name: slice(starts[i], starts[i + 1]) for i, g in enumerate(graph.groups)}
        self.group_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        self.readers = find_gated_weights(model, graph, self.spans, len(self.gate_param))
        self.index = torch.cat([torch.empty(0, dtype=torch.long), *(r.index for r in self.readers)])
        self.removed = torch.zeros(len(self.gate_param), dtype=torch.bool)
        self.difference = Difference(0.0, 0.0)
        self.history = History()
        self.copies: list[tuple[str, nn.Module]] = []
        self._twins: list[tuple[int, nn.Module]] = []  # place of a reader, and its module in a copy
        self._acting = False
        for reader in self.readers:
            register(reader)

    def __getitem__(self, name: str) -> Gate:
        span = self._span(name)
        return Gate(name, self.gate_param[span], self.values[span])

    def _span(self, name: str) -> slice:
        if name not in self.spans:
            raise GDPError(f"There is no gate {name!r}; the gates are: {', '.join(self.spans)}.")
        return self.spans[name]

    @property
    def values(self) -> Tensor:
        """All gates in one vector, shape (channels,)."""
        return self._value(self.gate_param, self.temperature)

    @property
    def open_counts(self) -> Tensor:
        """Channels per group that are not closed, shape (groups,), on the CPU."""
        is_open = (self.gate_param > 0).long().cpu()
        return torch.zeros(len(self.spans), dtype=torch.long).index_add_(0, self.group_of, is_open)

    @property
    def closed(self) -> dict[str, list[int]]:
        """Indices of the closed channels of every group that has some."""
        return self.indices(self.gate_param == 0)

    def indices(self, channels: Tensor) -> dict[str, list[int]]:
        """Indices within each group of these channels (one bool per channel of all groups), where there are some."""
        found = {name: torch.nonzero(channels[span]).flatten().tolist() for name, span in self.spans.items()}
        return {name: indices for name, indices in found.items() if indices}

    def close(self, name: str, indices: Sequence[int] | Tensor) -> None:
        """Close channels of a group for good.

        Raises:
            GDPError: there is no such group or channel, or none would be left.
        """
        self.close_all({name: indices})

    def close_all(self, closed: Mapping[str, Sequence[int] | Tensor]) -> None:
        """Close channels of several groups for good, `closed` being their indices or one bool per channel.

        Raises:
            GDPError: there is no such group or channel, or a group would lose its last one; nothing is closed then.
        """
        raw = self.gate_param.clone()
        for name, indices in closed.items():
            raw[self._span(name)] = self._with_closed(name, indices)
        self.gate_param = raw
        if self.inserted:
            self.sync()

    def _with_closed(self, name: str, indices: Sequence[int] | Tensor) -> Tensor:
        """The x of a group's gates with these channels closed."""
        raw = self.gate_param[self._span(name)].clone()
        size, index = len(raw), torch.as_tensor(indices).flatten()
        if index.dtype == torch.bool and len(index) == size:
            index = torch.nonzero(index).flatten()
        if len(index) and (index.is_floating_point() or index.dtype == torch.bool):
            raise GDPError(f"Expected channel indices of {name!r}, or {size} bools, but got {indices!r}.")
        index = index.long()
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < size):
            raise GDPError(f"Expected channel indices of {name!r} in [0, {size - 1}], but got {index.tolist()}.")
        raw[index] = 0.0
        if not bool((raw > 0).any()) and not any(name in block.groups for block in self.graph.blocks):
            raise GDPError(f"Closing all {size} channels of {name!r} would cut the network in two; leave at least one.")
        return raw

    def sync(self) -> None:
        """Write the gates' values beside the weights they act on, and let them act from now on."""
        if not self._acting:
            self._acting = True
            for reader in self.readers_and_copies:
                activate(reader)
        values = torch.cat([self.values, self.gate_param.new_ones(1)])[self.index]
        parts = values.split([len(r.index) for r in self.readers])
        for reader, part in zip(self.readers, parts, strict=True):
            gate = reader.gate
            gate.copy_(part.view(gate.shape))
        for place, module in self._twins:
            reader = self.readers[place]
            replace(reader, module=module).gate.copy_(reader.gate)

    @property
    def readers_and_copies(self) -> list[GatedWeight]:
        """The gated weights, and those of all copies."""
        return self.readers + [replace(self.readers[place], module=module) for place, module in self._twins]

    def track_copy(self, copy: nn.Module, part: str = "") -> None:
        """Keep a copy of the network, or of its submodule `part`, gated as the network is; cut it along.

        Meant for moving averages of the weights: they go on being averaged by whoever does it.

        Raises:
            GDPError: its tensors have other shapes.
        """
        if any(copy is known for _, known in self.copies):
            return
        original, modules = self.model.get_submodule(part), dict(copy.named_modules())
        shapes = [{n: tuple(p.shape) for n, p in net.named_parameters()} for net in (original, copy)]
        if shapes[0] != shapes[1]:
            raise GDPError(
                f"Expected a copy of {part or 'the network'}, but {type(copy).__name__} has other parameters. Make the "
                "copy with copy.deepcopy, or torch.optim.swa_utils.AveragedModel."
            )
        name_of = {id(module): name for name, module in original.named_modules()}
        self.copies.append((part, copy))
        for place, reader in enumerate(self.readers):
            if id(reader.module) in name_of:
                twin = replace(reader, module=modules[name_of[id(reader.module)]])
                self._twins.append((place, twin.module))
                register(twin)
                if self._acting:
                    activate(twin)
        if self._acting:
            self.sync()

    def remove_channels(self, removed: Tensor) -> Callable[[], None]:
        """Leave channels that are cut out of the weights out of the gates as well; return what undoes it.

        Args:
            gone: one bool per channel of all groups.
        """
        was_gone, was_readers, was_index = self.removed, self.readers, self.index
        was_data = [(reader.gate, reader.gate.data) for reader in self.readers_and_copies]
        stays = torch.cat([~removed, torch.ones(1, dtype=torch.bool)])
        for reader in self.readers_and_copies:
            kept = torch.nonzero(stays[reader.index]).flatten()
            reader.gate.data = reader.gate.data.index_select(reader.dim, kept.to(reader.gate.device))
        self.readers = [replace(reader, index=reader.index[stays[reader.index]]) for reader in self.readers]
        self.index = self.index[stays.to(self.index.device)[self.index]]
        self.removed = removed

        def undo() -> None:
            self.removed, self.readers, self.index = was_gone, was_readers, was_index
            for gate, data in was_data:
                gate.data = data

        return undo

    @property
    def inserted(self) -> bool:
        """Whether the gates are in the network."""
        return all(reader.tensor + GATE_SUFFIX in reader.module._buffers for reader in self.readers)

    def withdraw(self) -> None:
        """Take all gates away without a trace; the weights are not changed."""
        self._acting = False
        for reader in self.readers_and_copies:
            unregister(reader)

    def restore(self) -> None:
        """Undo `withdraw`."""
        for reader in self.readers_and_copies:
            register(reader)
        self.sync()

    def to_float32(self) -> None:
        """Undo what a conversion of the whole network to another type did to the gates."""
        for reader in self.readers_and_copies:
            reader.gate.data = reader.gate.data.float()

    def to(self, device: torch.device) -> None:
        """Move the state to the device where the weights train."""
        self.gate_param, self.index = self.gate_param.to(device), self.index.to(device)


def insert_gates(
    model: nn.Module, graph: ChannelGraph, value: GateFunction | None = None, temperature: float = 0.1
) -> Gates:
    """Put a gate in front of every conv and linear that reads a group; the network computes what it did before.

    Args:
        model: the network.
        graph: what `trace` found in it.
        value: makes a gate's value of its x and the temperature, 0 of 0 and 1 of 1; default: the polar gate.
        temperature: to begin with.

    Raises:
        GDPError: the network has gates already, or the graph belongs to another network.
    """
    check_ungated(model)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    canonical = {axis.tensor for group in graph.groups for axis in group.tensors}
    for name, shape in graph.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if name in canonical and found != shape:
            raise GDPError(
                f"The graph was traced with {name} of shape {shape}, but {type(model).__name__} has {found}; "
                "trace the network again."
            )
    return Gates(model, graph, value, temperature)
