"""ChannelGraph: the channel groups of a network, what they touch, what is frozen and why, and what channels cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph.flop_model import FlopModel
from gdp.graph.residual_branch import ResidualBranch


@dataclass(frozen=True)
class Axis:
    """One dimension of a parameter or buffer that carries a group; `index` has shape (channels, slots per channel)."""

    tensor: str
    dim: int
    index: Tensor

    @property
    def module(self) -> str:
        """Name of the module that holds the tensor; the tensor's own name where it hangs on the network itself."""
        return self.tensor.rpartition(".")[0] or self.tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can go one by one; a channel takes its slots out of every tensor of the group.

    Attributes:
        name: the first conv or linear that produces the channels.
        size: number of channels.
        tensors: every axis that is cut along.
        reads: the axes among them on which a conv or linear reads the channels; this is where gates sit.
        lines: lines of `forward` that hold a number which may be that of the channels: `file:line: code`.
    """

    name: str
    size: int
    tensors: tuple[Axis, ...]
    reads: tuple[Axis, ...]
    lines: tuple[str, ...] = ()

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of the convs and linears that read the group."""
        return tuple(dict.fromkeys(axis.module for axis in self.reads))


@dataclass(frozen=True)
class Frozen:
    """Channels that must stay: the layer that makes them, how many, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class ChannelGraph:
    """What can be cut in a network.

    Attributes:
        groups: the channel groups, in the order in which the network makes them.
        frozen: the channels that must stay, with the reason in words.
        flops: FLOPs of one forward pass of the example input, from open counts.
        shapes: dense shape of every parameter and buffer.
        inputs: the example input it was traced with.
        blocks: residual branches that may go as a whole; empty unless they were asked for.
        own: weights that nobody but their own layer computes with.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    flops: FlopModel
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[Any, ...]
    blocks: tuple[ResidualBranch, ...] = ()
    private_weights: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> ChannelGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise GDPError(f"There is no channel group {name!r}; the groups are: {', '.join(g.name for g in self.groups)}.")

    def carries(self, tensor: str) -> bool:
        """Whether anything can be cut out of this parameter or buffer."""
        return any(axis.tensor == tensor for group in self.groups for axis in group.tensors)

    def freeze(self, names: Iterable[str], reason: str) -> ChannelGraph:
        """Return the graph with these groups left alone."""
        names = set(names)
        keep = torch.tensor([g.name not in names for g in self.groups], dtype=torch.bool)
        flops, link = self.flops, keep[self.flops.group]
        stay = torch.where(link, 0, flops.mult * flops.sizes[flops.group])
        renumber = keep.cumsum(0) - 1
        blocks = tuple(b for b in self.blocks if not names & set(b.groups))
        fewer = replace(
            flops,
            offset=flops.offset.index_add(0, flops.axis, stay),
            axis=flops.axis[link],
            group=renumber[flops.group[link]],
            mult=flops.mult[link],
            sizes=flops.sizes[keep],
        )
        fewer_groups = replace(
            self,
            blocks=(),
            groups=tuple(g for g in self.groups if g.name not in names),
            frozen=self.frozen
            + tuple(Frozen(g.name, g.tensors[0].index.numel(), reason) for g in self.groups if g.name in names),
            flops=replace(fewer, switch=torch.full_like(flops.switch, -1)),
        )
        return fewer_groups.with_blocks(blocks)

    def with_blocks(self, blocks: tuple[ResidualBranch, ...]) -> ChannelGraph:
        """Return the graph with these residual branches allowed to go as a whole."""
        switch = torch.full_like(self.flops.switch, -1)
        number = {group.name: i for i, group in enumerate(self.groups)}
        for block in blocks:
            gone = {block.last_layer, block.norm, *block.inner_layers} - {""}
            inside = torch.tensor([module in gone for module in self.flops.modules], dtype=torch.bool)
            switch[inside] = number[block.reads[0]]
        return replace(self, blocks=blocks, flops=replace(self.flops, switch=switch))

    def with_dense_flops(self, dense: int) -> ChannelGraph:
        """Return the graph with `dense` as its FLOPs before the cut, as fvcore counted them.

        What fvcore counts beyond the trace lies in operators that gdp does not know (einsum, the body of an autocast
        block). Those are frozen, so it is a constant.
        """
        return replace(self, flops=replace(self.flops, const=self.flops.const + dense - self.flops.dense))

    def reasons(self) -> str:
        """One line per frozen part, for messages."""
        return "\n".join(f"  {f.name} ({f.channels} channels): {f.reason}" for f in self.frozen)
