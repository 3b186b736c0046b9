"""Gates: one vector per channel group, multiplied onto the input axis of every conv and linear that reads the group.

`conv(g * x, W) == conv(x, W * g)`, so a gate in front of a conv (GDP, figure 2) costs O(weights) instead of
O(activations).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.gates.channel_tensors import ChannelTensor, Role, find_channel_tensors
from gdp.gates.copies import DeepCopies, Mark, TrackedCopies, follow
from gdp.gates.functions import GateFunction, polar_gate
from gdp.gates.gated_layers import MARK_KEY, WeightView
from gdp.gates.group import Gate, with_closed
from gdp.gates.readers import GatedWeight, find_gated_weights, readers_in_copy
from gdp.graph import ChannelGraph
from gdp.report import History
from gdp.utils import Difference, get_module


class Gates:
    """Hold all gates of a network. Their state is float32 and no parameter: no optimizer, decay or scaler touches it.

    Attributes:
        model: the network.
        graph: what `gdp.trace` found in it.
        readers: the gated weights.
        index: the index vectors of all readers, one after the other.
        spans: name of every group -> its places in vectors of all channels.
        group_of: group of every channel, shape (channels of all groups,).
        removed: channels that were cut out of the network already, shape (channels of all groups,); all are closed.
        difference: the largest that these cuts made to the outputs, by rounding.
        history: what the gates were like on the way, if a pruner moved them.
        value_function: makes a gate's value of its x and the temperature.
        deep_copies: other copies of gated layers, which nobody has told the gates of.
        view: what `layer.weight` is in the gated layers while the hooks of a run have their turn.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, value: GateFunction | None = None, temperature: float = 0.1
    ) -> None:
        self.model = model
        self.graph = graph
        self._temperature = temperature
        self.value_function = value or polar_gate
        sizes = [g.size for g in graph.groups]
        self._gate_param = torch.ones(sum(sizes), dtype=torch.float32)
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.spans = {g.name: slice(starts[i], starts[i + 1]) for i, g in enumerate(graph.groups)}
        self.group_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        self.readers = find_gated_weights(model, graph, self.spans, len(self.gate_param))
        self.index = torch.cat([torch.empty(0, dtype=torch.long), *(r.index for r in self.readers)])
        self.removed = torch.zeros(len(self.gate_param), dtype=torch.bool)
        self.difference = Difference(0.0, 0.0)
        self.history = History()
        self.view = WeightView()
        self._tracked = TrackedCopies()
        self.deep_copies = DeepCopies()
        self._acting = False
        self._tensors: tuple[tuple[Tensor, torch.device], dict[Role, tuple[ChannelTensor, ...]]] | None = None
        self._register()

    def _register(self) -> None:
        for reader in self.readers_and_copies:
            reader.register()
        for reader in self.readers:
            vars(reader.module)[MARK_KEY] = Mark(reader.module, reader.module, lambda: self)

    def __getitem__(self, name: str) -> Gate:
        span = self._span(name)
        return Gate(name, self.gate_param[span], self.values[span])

    def _span(self, name: str) -> slice:
        if name not in self.spans:
            raise GDPError(f"There is no gate {name!r}; the gates are: {', '.join(self.spans)}.")
        return self.spans[name]

    @property
    def gate_param(self) -> Tensor:
        """The x of every gate, shape (channels of all groups,), in [0, 1]; 0.0 is closed for good."""
        return self._gate_param

    @property
    def temperature(self) -> float:
        """Of the function that makes a gate's value of its x; eps of the polar gate."""
        return self._temperature

    @property
    def values(self) -> Tensor:
        """What every channel is multiplied with, shape (channels of all groups,)."""
        return self.value_function(self.gate_param, self.temperature)

    @property
    def open_counts(self) -> Tensor:
        """Channels per group that are not closed, shape (groups,), on the CPU."""
        is_open = (self.gate_param > 0).long().cpu()
        return torch.zeros(len(self.spans), dtype=torch.long).index_add_(0, self.group_of, is_open)

    @property
    def closed(self) -> dict[str, list[int]]:
        """Indices of the closed channels of every group that has some."""
        return self.indices(self.gate_param == 0)

    @property
    def acting(self) -> bool:
        """Whether the network computes with its gates; before they move it does not."""
        return self._acting

    @property
    def inserted(self) -> bool:
        """Whether the gates are in the network."""
        return all(reader.is_registered for reader in self.readers)

    @property
    def copies(self) -> list[tuple[str, nn.Module]]:
        """Copies of the network, or of its submodule of that name, which are gated and cut along."""
        return self._tracked.copies

    @property
    def readers_and_copies(self) -> list[GatedWeight]:
        """The gated weights of the network, and those of all copies that are cut along."""
        return self.readers + self._tracked.readers(self.readers)

    @property
    def readers_everywhere(self) -> list[GatedWeight]:
        """The same, and those of copies that nobody has told the gates of."""
        return self.readers_and_copies + [twin for _, twin in self.deep_copies.readers(self.readers)]

    def tensors(self, role: Role) -> tuple[ChannelTensor, ...]:
        """Return the parameters that write, read, scale or shift channels, as they are now.

        Args:
            role: "writes" for weights along their output channels; "reads" for gated weights along their input
                channels; "scales" for factors, as of norms; "shifts" for biases.
        """
        state = self.removed, self.readers[0].weight.device
        if self._tensors is None or self._tensors[0][0] is not state[0] or self._tensors[0][1] != state[1]:
            self._tensors = state, find_channel_tensors(self.model, self.graph, self.spans, self.removed)
        return self._tensors[1][role]

    def indices(self, channels: Tensor) -> dict[str, list[int]]:
        """Return the indices within each group of some channels, where there are any.

        Args:
            channels: one bool per channel of all groups.
        """
        found = {name: torch.nonzero(channels[span]).flatten().tolist() for name, span in self.spans.items()}
        return {name: indices for name, indices in found.items() if indices}

    def set(self, gate_param: Tensor | None = None, temperature: float | None = None) -> None:
        """Set the gates, write their values beside the weights they act on, and let them act from now on.

        Args:
            gate_param: x of every gate, shape (channels of all groups,), in [0, 1]; default: as it is.
            temperature: of the gate function; default: as it is.
        """
        self._gate_param = self._gate_param if gate_param is None else gate_param
        self._temperature = self._temperature if temperature is None else temperature
        if not self._acting:
            self._acting = True
            for reader in self.readers_and_copies:
                reader.activate(self.view)
            self.deep_copies.activate(self.readers)
        averages = self.deep_copies.changed(self.readers)
        values = torch.cat([self.values, self.gate_param.new_ones(1)])[self.index]
        for reader, part in zip(self.readers, values.split([len(r.index) for r in self.readers]), strict=True):
            gate = reader.gate
            gate.copy_(part.view(gate.shape))
        self._tracked.update(self.readers)
        follow(averages)

    def close(self, name: str, indices: Sequence[int] | Tensor) -> None:
        """Close channels of a group for good.

        Args:
            name: of the group.
            indices: of the channels within the group, or one bool per channel.

        Raises:
            GDPError: there is no such group or channel, or none would be left.
        """
        self.close_all({name: indices})

    def close_all(self, closed: Mapping[str, Sequence[int] | Tensor]) -> None:
        """Close channels of several groups for good.

        Args:
            closed: for every group, their indices or one bool per channel.

        Raises:
            GDPError: there is no such group or channel, or a group would lose its last one; nothing is closed then.
        """
        gate_param = self.gate_param.clone()
        for name, indices in closed.items():
            may_go = any(name in block.groups for block in self.graph.blocks)
            gate_param[self._span(name)] = with_closed(name, self.gate_param[self._span(name)], indices, may_go)
        if self.inserted:
            self.set(gate_param)
        else:
            self._gate_param = gate_param

    def track_copy(self, copy: nn.Module, part: str = "") -> None:
        """Keep a copy of the network, or of a part of it, gated as the network is; cut it along.

        Meant for moving averages of the weights: they go on being averaged by whoever does it.

        Args:
            copy: with the same parameters.
            part: plain name of the submodule that it is a copy of; empty for the network itself.

        Raises:
            GDPError: its tensors have other shapes.
        """
        if any(copy is known for _, known in self.copies):
            return
        twins = readers_in_copy(self.readers, get_module(self.model, part), copy)
        self._tracked.add(part, copy, twins)
        for _, twin in twins:
            self.deep_copies.tracked.add(id(twin.module))
            twin.register()
            if self._acting:
                twin.activate(self.view)
        if self._acting:
            self.set()

    def remove_channels(self, removed: Tensor) -> Callable[[], None]:
        """Leave channels that are cut out of the weights out of the gates as well; return what undoes it.

        Args:
            removed: one bool per channel of all groups.
        """
        stays = torch.cat([~removed, torch.ones(1, dtype=torch.bool)])
        with ExitStack() as undo:
            for reader in self.readers_and_copies:
                gate, kept = reader.gate, torch.nonzero(stays[reader.index]).flatten()
                undo.callback(setattr, gate, "data", gate.data)
                gate.data = gate.data.index_select(reader.dim, kept.to(gate.device))
            for name in ("readers", "index", "removed"):
                undo.callback(setattr, self, name, getattr(self, name))
            self.readers = [replace(reader, index=reader.index[stays[reader.index]]) for reader in self.readers]
            self.index = self.index[stays.to(self.index.device)[self.index]]
            self.removed = removed
            return undo.pop_all().close

    def withdraw(self) -> None:
        """Take all gates away without a trace; the weights are not changed."""
        self.deep_copies.strip(self.readers)
        self.unregister()

    def unregister(self) -> None:
        """Take the gates away from the network and the copies that are cut along."""
        self._acting = False
        for reader in self.readers_and_copies:
            reader.unregister()

    def restore(self) -> None:
        """Undo `unregister`."""
        self._register()
        self.set()

    def to(self, device: torch.device) -> None:
        """Move the state to the device where the weights train.

        Args:
            device: of the weights.
        """
        self._gate_param, self.index = self.gate_param.to(device), self.index.to(device)

    def to_float32(self) -> None:
        """Undo what a conversion of the whole network to another type did to the gates."""
        for reader in self.readers_and_copies:
            reader.gate.data = reader.gate.data.float()

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs: tensors and numbers."""
        return {
            "gate_param": self.gate_param,
            "temperature": self.temperature,
            "removed": self.removed,
            "difference": [self.difference.absolute, self.difference.relative],
            "history": self.history.to_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; `set()` writes it beside the weights, once they are on their device.

        Args:
            state: from `state_dict`; the channels removed by then have been cut out of the network.
        """
        self._gate_param, self._temperature = state["gate_param"].to(self.gate_param.device), state["temperature"]
        self.difference, self.history = Difference(*state["difference"]), History.from_dict(state["history"])
