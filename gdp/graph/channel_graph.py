"""Define ChannelGraph: the channel groups of a network, the tensors they touch, and the channels that are frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph.flop_model import FlopModel
from gdp.graph.residual_branch import ResidualBranch


@dataclass(frozen=True)
class Axis:
    """One dimension of a parameter or buffer along which the channels of a group lie.

    Attributes:
        tensor: plain name of the parameter or buffer.
        dim: the dimension.
        index: which entries along the dimension belong to each channel, shape (channels, entries per channel).
    """

    tensor: str
    dim: int
    index: Tensor

    @property
    def module(self) -> str:
        """Name of the module that holds the tensor; the tensor's own name where it hangs on the network itself."""
        return self.tensor.rpartition(".")[0] or self.tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can be removed one by one; each takes its entries out of every tensor of the group.

    Attributes:
        name: plain name of the first conv or linear that produces the channels.
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
    """Channels that must stay.

    Attributes:
        name: plain name of the layer that makes them.
        channels: how many there are.
        reason: in words, for the user.
    """

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class ChannelGraph:
    """Record of what can be cut in a network.

    Attributes:
        groups: the channel groups, in the order in which the network makes them.
        frozen: the channels that must stay, with the reason in words.
        flops: FLOPs of one forward pass of the example input, as a function of open counts.
        shapes: shape of every parameter and buffer in the dense network, by plain names.
        inputs: the example input that the network was traced with, as a tuple of positional inputs.
        blocks: residual branches that may be removed as a whole; empty unless they were asked for.
        private_weights: plain names of the weights that only their own layer computes with.
        unread: plain names of the parameters that `forward` never reads, those of ignored layers left out.
        held: the groups, by name, that keep all of their channels though `forward` could do without, with the reason.
        unused_weights: plain names of the weights of convs and linears whose results nothing uses.
        notes: what else the user should know of the numbers, in sentences.
        selects: operators of the network that choose positions by values (topk, argmax, nms), and may break ties.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    flops: FlopModel
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[Any, ...]
    blocks: tuple[ResidualBranch, ...] = ()
    private_weights: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    held: tuple[Frozen, ...] = ()
    unused_weights: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    selects: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ChannelGroup:
        """Return a channel group.

        Args:
            name: of the group.

        Raises:
            GDPError: there is no such group.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise GDPError(f"There is no channel group {name!r}; the groups are: {', '.join(g.name for g in self.groups)}.")

    def carries(self, tensor: str) -> bool:
        """Return whether anything can be cut out of a parameter or buffer.

        Args:
            tensor: its plain name.
        """
        return any(axis.tensor == tensor for group in self.groups for axis in group.tensors)

    def freeze(self, names: Iterable[str], reason: str) -> ChannelGraph:
        """Return the graph with some groups frozen: all of their channels stay.

        Residual branches that hold one of these groups are no longer removed as a whole.

        Args:
            names: of the groups; other names are ignored.
            reason: why they stay, in words.
        """
        names = set(names)
        is_free = torch.tensor([g.name not in names for g in self.groups], dtype=torch.bool)

        # FLOPs: entries of frozen groups join those that always stay, and the other groups are numbered anew
        flops, is_free_link = self.flops, is_free[self.flops.group]
        staying = torch.where(is_free_link, 0, flops.mult * flops.sizes[flops.group])
        new_number = is_free.cumsum(0) - 1
        fewer_flops = replace(
            flops,
            offset=flops.offset.index_add(0, flops.axis, staying),
            axis=flops.axis[is_free_link],
            group=new_number[flops.group[is_free_link]],
            mult=flops.mult[is_free_link],
            sizes=flops.sizes[is_free],
            switch=torch.full_like(flops.switch, -1),
        )

        # groups: the frozen ones move over; `with_blocks` sets the switches of the remaining branches
        newly_frozen = [Frozen(g.name, g.tensors[0].index.numel(), reason) for g in self.groups if g.name in names]
        fewer_groups = replace(
            self,
            blocks=(),
            groups=tuple(g for g in self.groups if g.name not in names),
            frozen=(*self.frozen, *newly_frozen),
            flops=fewer_flops,
            held=tuple(h for h in self.held if h.name not in names),
        )
        return fewer_groups.with_blocks(tuple(b for b in self.blocks if not names & set(b.groups)))

    def hold_open(self, reasons: Mapping[str, str]) -> ChannelGraph:
        """Return the graph with all channels of some groups held open. The groups stay in it, with their gates.

        Residual branches that hold one of these groups are no longer removed as a whole.

        Args:
            reasons: name of a group -> why it stays, in words; other names are ignored.
        """
        free = [g for g in self.groups if g.name in reasons and g.name not in {h.name for h in self.held}]
        held = tuple(Frozen(g.name, g.tensors[0].index.numel(), reasons[g.name]) for g in free)
        blocks = tuple(b for b in self.blocks if not reasons.keys() & set(b.groups))
        return replace(self, held=self.held + held).with_blocks(blocks)

    def is_held(self, group: ChannelGroup) -> bool:
        """Return whether all channels of a group are held open."""
        return any(group.name == held.name for held in self.held)

    @property
    def staying(self) -> tuple[Frozen, ...]:
        """The channels that must stay, those that are held open among them."""
        return self.frozen + self.held

    def with_blocks(self, blocks: tuple[ResidualBranch, ...]) -> ChannelGraph:
        """Return the graph with these residual branches, and no others, allowed to be removed as a whole.

        Args:
            blocks: residual branches of this network.
        """
        switch = torch.full_like(self.flops.switch, -1)
        number = {group.name: i for i, group in enumerate(self.groups)}
        for branch in blocks:
            layers = {branch.last_layer, branch.norm, *branch.inner_layers} - {""}
            inside = torch.tensor([module in layers for module in self.flops.modules], dtype=torch.bool)
            switch[inside] = number[branch.reads[0]]
        return replace(self, blocks=blocks, flops=replace(self.flops, switch=switch))

    def with_dense_flops(self, dense: int) -> ChannelGraph:
        """Return the graph with its FLOPs before the cut set to what fvcore counted.

        What fvcore counts beyond the trace lies in operators that gdp does not know (einsum, the body of an autocast
        block). The channels that they touch are frozen, so the difference is a constant.

        Args:
            dense: FLOPs of the dense network by fvcore.
        """
        return replace(self, flops=replace(self.flops, const=self.flops.const + dense - self.flops.dense))

    def reasons(self) -> str:
        """Return the frozen channels and their reasons, one line per layer, for messages."""
        return "\n".join(f"  {f.name} ({f.channels} channels): {f.reason}" for f in self.staying)
