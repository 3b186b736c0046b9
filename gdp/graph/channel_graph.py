"""ChannelGraph: the channel groups of a network, what they touch, what is frozen and why, and what channels cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.names import plain_name


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
class Block:
    """The branch of a residual block that goes as a whole once no channel that its last conv reads is open.

    What the branch still adds then is a constant per channel.

    Attributes:
        name: the module that holds the branch.
        groups: all channel groups inside the branch.
        reads: those among them that its last conv reads.
        last: name of the last conv or linear.
        norm: name of the batch norm right behind it; empty if there is none.
        silent: names of all other layers of the branch.
    """

    name: str
    groups: tuple[str, ...]
    reads: tuple[str, ...]
    last: str
    norm: str
    silent: tuple[str, ...]

    def plain(self) -> Block:
        """The same block without the names that torch.compile adds."""
        groups, reads, silent = (tuple(map(plain_name, names)) for names in (self.groups, self.reads, self.silent))
        return Block(plain_name(self.name), groups, reads, plain_name(self.last), plain_name(self.norm), silent)

    def under(self, prefix: str) -> Block:
        """The same block in a network that is the child `prefix` of a larger one."""

        def longer(name: str) -> str:
            return f"{prefix}.{name}" if name else name

        silent = tuple(map(longer, self.silent))
        return Block(longer(self.name), self.groups, self.reads, longer(self.last), longer(self.norm), silent)


@dataclass(frozen=True)
class FlopModel:
    """FLOPs of the network, as fvcore counts them, as a function of the open channels of every group.

    `F = const + sum_t coef_t * n(row_t) * n(col_t)`, where `n(a) = offset_a + sum_g mult_ag * open_g` is what is left
    of axis a. Bilinear in the open counts, as in GDP (arXiv 2109.02220); everything is an exact integer. Terms of a
    block that may go count as long as the group in `switch` has an open channel.
    """

    const: int
    coef: Tensor  # (terms,)
    row: Tensor  # (terms,) axis of every term
    col: Tensor
    offset: Tensor  # (axes,) entries that always stay
    axis: Tensor  # (links,) axis, group and multiplicity of every link
    group: Tensor
    mult: Tensor
    sizes: Tensor  # (groups,)
    switch: Tensor  # (terms,) group, or -1: the term always counts
    modules: tuple[str, ...]  # (terms,) layer of every term

    def lengths(self, opened: Tensor) -> Tensor:
        """What is left of every axis, shape (..., axes), with `opened` channels left per group, shape (..., groups)."""
        left = self.offset.expand(*opened.shape[:-1], -1)
        return left.index_add(-1, self.axis, self.mult * opened[..., self.group])

    def counts(self, opened: Tensor) -> Tensor:
        """FLOPs with `opened` channels left per group, shape (..., groups), int64."""
        n = self.lengths(opened)
        terms = self.coef * n[..., self.row] * n[..., self.col]
        if self._switched:
            terms = torch.where((self.switch >= 0) & (opened[..., self.switch] == 0), 0, terms)
        return self.const + terms.sum(-1)

    def count(self, opened: Tensor) -> int:
        """FLOPs with `opened` channels left per group, shape (groups,), int64."""
        return int(self.counts(opened))

    def expected(self, opened: Tensor) -> float:
        """FLOPs at counts that need not be whole, shape (groups,), float64; no block goes."""
        coef, row, col, offset, axis, group, mult = self._arrays
        n = offset + np.bincount(axis, mult * opened.numpy()[group], len(offset))
        return self.const + float((coef * n[row] * n[col]).sum())

    def marginal(self, opened: Tensor) -> Tensor:
        """FLOPs one channel of every group carries at these counts, whole or not, shape (groups,), float64."""
        coef, row, col, offset, axis, group, mult = self._arrays
        if self._switched:
            coef = np.where(((self.switch >= 0) & (opened[self.switch] == 0)).numpy(), 0, coef)
        n = offset + np.bincount(axis, mult * opened.numpy()[group], len(offset))
        by_axis = np.bincount(row, coef * n[col], len(n)) + np.bincount(col, coef * n[row], len(n))
        return torch.from_numpy(np.bincount(group, mult * by_axis[axis], len(self.sizes)))

    @cached_property
    def _switched(self) -> bool:
        return bool((self.switch >= 0).any())

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        tensors = (self.coef, self.row, self.col, self.offset, self.axis, self.group, self.mult)
        return tuple(tensor.numpy() for tensor in tensors)

    @cached_property
    def curvature(self) -> Tensor:
        """Half of the second derivative by every open count: `F(n + k) = F(n) + k * marginal + k^2 * curvature`."""
        links: dict[int, Counter[int]] = {}
        for axis, group, mult in zip(self.axis.tolist(), self.group.tolist(), self.mult.tolist(), strict=True):
            links.setdefault(axis, Counter())[group] += mult
        found: Counter[int] = Counter()
        for coef, row, col in zip(self.coef.tolist(), self.row.tolist(), self.col.tolist(), strict=True):
            rows, cols = links.get(row, Counter()), links.get(col, Counter())
            for group in rows.keys() & cols.keys():
                found[group] += coef * rows[group] * cols[group]
        return torch.tensor([float(found[g]) for g in range(len(self.sizes))], dtype=torch.float64)

    @property
    def dense(self) -> int:
        """FLOPs with every channel open."""
        return self.count(self.sizes)


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
    blocks: tuple[Block, ...] = ()
    own: frozenset[str] = frozenset()

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

    def with_blocks(self, blocks: tuple[Block, ...]) -> ChannelGraph:
        """Return the graph with these residual branches allowed to go as a whole."""
        switch = torch.full_like(self.flops.switch, -1)
        number = {group.name: i for i, group in enumerate(self.groups)}
        for block in blocks:
            gone = {block.last, block.norm, *block.silent} - {""}
            inside = torch.tensor([module in gone for module in self.flops.modules], dtype=torch.bool)
            switch[inside] = number[block.reads[0]]
        return replace(self, blocks=blocks, flops=replace(self.flops, switch=switch))

    def counted(self, dense: int) -> ChannelGraph:
        """Return the graph with `dense` as its FLOPs before the cut, as fvcore counted them.

        What fvcore counts beyond the trace lies in operators that gdp does not know (einsum, the body of an autocast
        block). Those are frozen, so it is a constant.
        """
        return replace(self, flops=replace(self.flops, const=self.flops.const + dense - self.flops.dense))

    def reasons(self) -> str:
        """One line per frozen part, for messages."""
        return "\n".join(f"  {f.name} ({f.channels} channels): {f.reason}" for f in self.frozen)
