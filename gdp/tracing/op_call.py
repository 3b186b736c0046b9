"""The state of one walk over an exported graph: what every operator rule reads and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gdp.graph import Frozen
from gdp.tracing.labels import ChannelIds, Labels


@dataclass(frozen=True)
class ParamRef:
    """A parameter or buffer on its way to an operator; `coords` says which element of it sits where.

    `coords` is None as long as the tensor is used as it is stored; `exact` is False once its values were changed.
    """

    name: str
    shape: tuple[int, ...]
    coords: Tensor | None = None
    exact: bool = True

    @property
    def is_direct(self) -> bool:
        return self.coords is None and self.exact

    def coordinates(self) -> Tensor:
        if self.coords is not None:
            return self.coords
        numel = int(torch.Size(self.shape).numel())
        return torch.arange(numel).view(self.shape)


@dataclass(frozen=True)
class FlopTerm:
    """`coef * len(rows) * len(cols)` FLOPs, where a vector counts only the units of it that are open."""

    coef: int
    rows: Tensor | None = None
    cols: Tensor | None = None
    module: str = ""


@dataclass
class TraceState:
    """What a walk collects: tied units, the axes of weights that carry them, readers, and the terms of the FLOPs."""

    shapes: dict[str, tuple[int, ...]]  # of every parameter and buffer, as stored
    channel_ids: ChannelIds = field(default_factory=ChannelIds)
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # (tensor, dim) -> unit of every index
    producers: set[tuple[str, int]] = field(default_factory=set)  # output axes of convs and linears
    readers: set[tuple[str, int]] = field(default_factory=set)  # input axes of convs and linears
    fixed_shapes: dict[str, str] = field(default_factory=dict)  # weights that must keep their shape -> reason
    partly_cut: dict[str, int] = field(default_factory=dict)  # weights used as activations -> dimension that may be cut
    frozen_layers: list[Frozen] = field(default_factory=list)  # layers that no unit was given to
    settable_groups: frozenset[str] = frozenset()  # weights of conv modules: their `groups` follows a cut
    flipped_grouping: frozenset[str] = frozenset()  # grouped convs that are cut the other way than their sizes suggest
    two_way_grouping: set[str] = field(default_factory=set)  # grouped convs that can be cut both ways
    flops: list[FlopTerm] = field(default_factory=list)
    size_lines: dict[str, list[Tensor]] = field(
        default_factory=dict
    )  # line of source -> units whose number it may hold
    counting: bool = True  # only the eval graph counts FLOPs

    def carry(self, weight: str, dim: int, vector: Tensor, where: str) -> None:
        """Note that index i of `weight` along `dim` belongs to unit `vector[i]`."""
        known = self.axes.setdefault((weight, dim), vector)
        if known is not vector:
            self.channel_ids.union(known, vector, f"{weight} is also used on channels that must stay ({where})")

    def keep_shape(self, weight: ParamRef, reason: str) -> None:
        """`weight` must keep its shape, and so must every unit it carries anywhere in the network."""
        self.fixed_shapes.setdefault(weight.name, reason)

    def as_activation(self, weight: ParamRef) -> Labels:
        """Units of a weight that is computed with: one per index of its first dimension, the others keep their size."""
        stored = self.shapes[weight.name]
        wide = [d for d, size in enumerate(stored) if size > 1]
        if not wide:
            return Labels.frozen(weight.shape)
        dim = 0 if stored[0] > 1 else wide[-1]
        self.partly_cut[weight.name] = dim
        if (weight.name, dim) not in self.axes:
            self.axes[weight.name, dim] = self.channel_ids.new(stored[dim])
        at = weight.coordinates() // prod(stored[dim + 1 :]) % stored[dim]
        return Labels.of(self.axes[weight.name, dim][at])

    def finish(self) -> None:
        """Freeze what weights carry that must keep their shape, or a part of it.

        Those read along two dimensions are among them, since a gate sits on one.
        """
        for name, count in Counter(name for name, _ in self.readers).items():
            if count > 1:
                self.fixed_shapes.setdefault(name, f"{name} is read along several dimensions")
        for (name, dim), vector in self.axes.items():
            if name in self.fixed_shapes:
                self.channel_ids.freeze(vector, self.fixed_shapes[name])
            elif name in self.partly_cut and (dim != self.partly_cut[name] or (name, dim) in self.readers):
                self.channel_ids.freeze(vector, f"{name} is computed with in forward")


@dataclass(frozen=True)
class OpCall:
    """One operator of the graph with its arguments by name; tensors are `Labels` or `Weight`."""

    op: str  # base name without overload and in-place mark, e.g. "conv2d"
    args: dict[str, Any]
    outputs: Any  # shapes of the results: one tuple, or a list of them
    module: str  # that it was called in; empty for the network itself
    line: str  # of the user's source, `file:line: code`
    target: Any
    state: TraceState

    @property
    def channel_ids(self) -> ChannelIds:
        return self.state.channel_ids

    @property
    def location(self) -> str:
        """For people: operator and the module it was called in."""
        return f"{self.op or self.target} in {self.module or 'forward'}"

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.outputs if isinstance(self.outputs, tuple) else self.outputs[0]

    def operands(self) -> Iterator[Labels | ParamRef]:
        for value in self.args.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Labels | ParamRef):
                    yield item

    def labels(self, name: str = "input") -> Labels:
        """The argument as an activation."""
        value = self.args[name] if name in self.args else self.args["self"]
        return self.state.as_activation(value) if isinstance(value, ParamRef) else value

    def stored_param(self, name: str) -> ParamRef | None:
        """The argument as a parameter or buffer that is used just as it is stored, else None."""
        value = self.args.get(name)
        return value if isinstance(value, ParamRef) and value.is_direct else None

    def ids_along(self, labels: Labels, dim: int) -> Tensor:
        """One unit per index along `dim`, shape (size,)."""
        return self.channel_ids.union_slices(labels, dim, f"meets channels that must stay in {self.location}")

    def freeze(self, ids: Tensor, reason: str) -> None:
        self.channel_ids.freeze(ids, reason)

    def add_flops(self, coef: int, rows: Tensor | None = None, cols: Tensor | None = None) -> None:
        """Add a term to the FLOPs."""
        if self.state.counting:
            self.state.flops.append(FlopTerm(coef, rows, cols, self.module))

    def result(self, labels: Labels | ParamRef) -> Any:
        """`labels` for the first result; further ones (indices of max pooling) are left without units."""
        if isinstance(self.outputs, tuple):
            return labels
        return [labels, *(Labels.frozen(s) for s in self.outputs[1:])]

    def freeze_layer(self, channels: int, reason: str) -> None:
        """Tell of a layer whose channels stay, and which no other reason would be given for."""
        name = self.module or self.op
        if channels > 1 and not any(f.name == name for f in self.state.frozen_layers):
            self.state.frozen_layers.append(Frozen(name, channels, reason))

    def note_written_sizes(self, out: Any) -> None:
        """Remember the line if a number in it is the size of a dimension along which channels run."""
        numbers = {a for a in tree_leaves(list(self.args.values())) if type(a) in (int, float) and a > 1}
        for labels in tree_leaves([out, *self.operands()]):
            if isinstance(labels, Labels):
                for dim, size in enumerate(labels.shape):
                    if size in numbers and labels.varies(dim):
                        self.state.size_lines.setdefault(self.line, []).append(labels.ids.flatten())

    def freeze_all(self, reason: str) -> Any:
        """Everything that enters must stay, and nothing that leaves carries a unit."""
        for operand in self.operands():
            if isinstance(operand, ParamRef):
                self.state.keep_shape(operand, reason)
            else:
                self.freeze(operand.ids, reason)
        stay = [Labels.frozen(s) for s in ([self.outputs] if isinstance(self.outputs, tuple) else self.outputs)]
        return stay[0] if isinstance(self.outputs, tuple) else stay
