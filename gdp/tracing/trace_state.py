"""Hold what the operator rules collect in a pass over an exported graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from gdp.graph import Frozen
from gdp.tracing.labels import FROZEN_ID, ChannelIds, Labels

UNUSED = "its result is not used"  # why the channels of a layer stay that nothing depends on


@dataclass(frozen=True)
class ParamRef:
    """A parameter or buffer on its way to an operator.

    Attributes:
        name: plain name of the tensor.
        shape: its shape where it is now, after views.
        coords: which element of the stored tensor sits where, flat indices of shape `shape`; None as long as the
            tensor is used as it is stored.
        exact: False once its values were changed.
    """

    name: str
    shape: tuple[int, ...]
    coords: Tensor | None = None
    exact: bool = True

    @property
    def is_direct(self) -> bool:
        """Whether the tensor is used just as it is stored."""
        return self.coords is None and self.exact

    def coordinates(self) -> Tensor:
        """Return the flat index into the stored tensor of every element, shape `shape`."""
        if self.coords is not None:
            return self.coords
        return torch.arange(prod(self.shape)).view(self.shape)


@dataclass(frozen=True)
class FlopTerm:
    """`coef * len(rows) * len(cols)` FLOPs, where a vector counts only the channels of it that are open.

    Attributes:
        coef: FLOPs per pair of a row and a column.
        rows: channel id of every row, shape (rows,); None stands for one row that always counts.
        cols: the same of the columns.
        module: plain name of the layer that the FLOPs belong to.
    """

    coef: int
    rows: Tensor | None = None
    cols: Tensor | None = None
    module: str = ""


@dataclass
class TraceState:
    """Collect what rules find: joined channel ids, the axes of tensors that carry them, and the terms of the FLOPs.

    Attributes:
        shapes: of every parameter and buffer, as stored, by plain names.
        settable_groups: weights of conv modules, whose attribute `groups` can follow a cut.
        flipped_grouping: grouped convs that are cut the other way than their sizes suggest.
        channel_ids: hands out ids, and joins them.
        axes: (tensor, dimension) -> channel id of every index.
        producers: output axes of convs and linears -> whether something uses what they make.
        readers: input axes of convs and linears, likewise.
        fixed_shapes: tensors that must keep their shape -> the reason.
        partly_cut: tensors used as activations -> the dimension that may be cut.
        frozen_layers: layers that no channel id was given to.
        two_way_grouping: grouped convs that can be cut both ways.
        flops: the terms of the FLOPs.
        size_lines: line of the user's source -> channel ids whose number it may hold.
        notes: what else the user should know of the numbers, each sentence once.
        counting: whether FLOPs are counted; only those of the eval graph are.
        used: whether something uses the result of the operator whose rule is applied now.
    """

    shapes: dict[str, tuple[int, ...]]
    settable_groups: frozenset[str] = frozenset()
    flipped_grouping: frozenset[str] = frozenset()
    channel_ids: ChannelIds = field(default_factory=ChannelIds)
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    producers: dict[tuple[str, int], bool] = field(default_factory=dict)
    readers: dict[tuple[str, int], bool] = field(default_factory=dict)
    fixed_shapes: dict[str, str] = field(default_factory=dict)
    partly_cut: dict[str, int] = field(default_factory=dict)
    frozen_layers: list[Frozen] = field(default_factory=list)
    two_way_grouping: set[str] = field(default_factory=set)
    flops: list[FlopTerm] = field(default_factory=list)
    size_lines: dict[str, list[Tensor]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    counting: bool = True
    used: bool = True

    @property
    def unused_weights(self) -> frozenset[str]:
        """Plain names of the weights that are read by layers alone whose results nothing uses."""
        used = {name for (name, _), used in self.readers.items() if used}
        return frozenset(name for name, _ in self.readers) - used

    def carry(self, tensor: str, dim: int, ids: Tensor, location: str) -> None:
        """Note that index i of a tensor along a dimension belongs to channel `ids[i]`.

        Args:
            tensor: plain name of a parameter or buffer.
            dim: the dimension.
            ids: channel id of every index, shape (size along dim,).
            location: operator and module, for the reason.
        """
        ids = ids.clamp_min(FROZEN_ID)  # a tensor has no entries that go with whatever they meet
        known = self.axes.setdefault((tensor, dim), ids)
        if known is not ids:
            self.channel_ids.union(known, ids, f"{tensor} is also used on channels that must stay ({location})")

    def read(self, tensor: str, dim: int) -> None:
        """Note that a conv or linear reads channels along a dimension of its weight.

        Args:
            tensor: plain name of the weight.
            dim: the dimension.
        """
        self.readers[tensor, dim] = self.readers.get((tensor, dim), False) or self.used

    def produce(self, tensor: str, dim: int) -> None:
        """Note that a conv or linear makes channels along a dimension of its weight.

        Args:
            tensor: plain name of the weight.
            dim: the dimension.
        """
        self.producers[tensor, dim] = self.producers.get((tensor, dim), False) or self.used

    def keep_shape(self, ref: ParamRef, reason: str) -> None:
        """Note that a tensor must keep its shape, and so must every channel it carries anywhere in the network.

        Args:
            ref: the tensor.
            reason: in words; the first one counts.
        """
        if self.used:
            self.fixed_shapes.setdefault(ref.name, reason)

    def as_activation(self, ref: ParamRef) -> Labels:
        """Return the labels of a parameter that `forward` computes with: a channel per index of one wide dimension.

        Wide is a dimension of more than one index. The first dimension is taken if it is wide, else the last wide one.

        Args:
            ref: the tensor; its other dimensions keep their sizes.
        """
        stored = self.shapes[ref.name]
        wide = [d for d, size in enumerate(stored) if size > 1]
        if not wide:
            return Labels.frozen(ref.shape)
        dim = 0 if stored[0] > 1 else wide[-1]
        if self.used:
            self.partly_cut[ref.name] = dim
        if (ref.name, dim) not in self.axes:
            self.axes[ref.name, dim] = self.channel_ids.new(stored[dim])
        at = ref.coordinates() // prod(stored[dim + 1 :]) % stored[dim]
        return Labels.of(self.axes[ref.name, dim][at])

    def finish(self) -> None:
        """Freeze the channels of tensors that must keep their shape, or their size along a dimension.

        Tensors that are read along two dimensions are among them, since a gate sits on one.
        """
        for name, count in Counter(name for name, _ in self.readers).items():
            if count > 1:
                self.fixed_shapes.setdefault(name, f"{name} is read along several dimensions")
        for (name, dim), ids in self.axes.items():
            if name in self.fixed_shapes:
                self.channel_ids.freeze(ids, self.fixed_shapes[name])
            elif name in self.partly_cut and (dim != self.partly_cut[name] or (name, dim) in self.readers):
                self.channel_ids.freeze(ids, f"{name} is computed with in forward")
