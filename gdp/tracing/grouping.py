"""Form channel groups of joined channel ids: channels that occur equally often on the same axes are one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gdp.graph import Axis, ChannelGraph, ChannelGroup, FlopModel, Frozen
from gdp.tracing.labels import FROZEN_ID
from gdp.tracing.trace_state import UNUSED, FlopTerm, TraceState

AxisKey = tuple[str, int]  # name of a parameter or buffer, and a dimension of it


@dataclass(frozen=True)
class _Numbering:
    """Number of the group of every channel, and number of the channel within its group.

    Attributes:
        group_of: group of every channel id, shape (ids,); -1 for ids that are in no group.
        position: place of every channel id within its group, shape (ids,); 0 for ids that are in no group.
        sizes: channels per group, shape (groups,).
    """

    group_of: Tensor
    position: Tensor
    sizes: Tensor


def group_channels(state: TraceState, inputs: tuple[Any, ...]) -> ChannelGraph:
    """Turn what a pass has collected into a ChannelGraph.

    Args:
        state: of the pass, finished.
        inputs: the example input, which the graph keeps.
    """
    # one id, the root, for all that are joined
    root, reasons = state.channel_ids.roots()
    axes = {key: root[vector] for key, vector in state.axes.items()}
    terms = [replace(t, rows=_roots_of(root, t.rows), cols=_roots_of(root, t.cols)) for t in state.flops]
    flop_vectors = [v for t in terms for v in (t.rows, t.cols) if v is not None]

    # channels that can go, and why others can't
    cls = _refine(len(root), [*axes.values(), *flop_vectors])
    read = _occurring(len(root), (axes[key] for key, used in state.readers.items() if used))
    carried = _occurring(len(root), axes.values())
    stay = torch.zeros(len(root), dtype=torch.bool)
    stay[[FROZEN_ID, *reasons]] = True
    free, single = _split_off_singles(torch.nonzero(carried & read & ~stay).flatten(), cls)
    reasons |= dict.fromkeys(single.tolist(), "its channels are one unit, which can't go without cutting the network")
    stay[single] = True

    # groups, their axes and the frozen rest
    numbering = _number_groups(free, cls, len(root))
    axes_of = _axes_by_group(axes, numbering)
    groups = _channel_groups(state, axes_of, numbering, root)
    frozen = _frozen_layers(state, axes, carried & ~read & ~stay, reasons)
    flops = _flop_model(terms, numbering.group_of, numbering.sizes)
    unused, notes = state.unused_weights, tuple(state.notes)
    return ChannelGraph(groups, frozen, flops, dict(state.shapes), inputs, unused_weights=unused, notes=notes)


def _roots_of(root: Tensor, ids: Tensor | None) -> Tensor | None:
    """Return the roots of ids, or None for None.

    Args:
        root: root of every id, shape (ids,).
        ids: channel ids of any shape.
    """
    return None if ids is None else root[ids]


def _occurring(n: int, vectors: Iterable[Tensor]) -> Tensor:
    """Return which ids occur in any of some vectors, bool, shape (n,).

    Args:
        n: number of ids.
        vectors: of channel ids.
    """
    found = torch.zeros(n, dtype=torch.bool)
    for vector in vectors:
        found[vector] = True
    return found


def _refine(n: int, vectors: list[Tensor]) -> Tensor:
    """Return a class for every id; two ids have the same one iff they occur equally often in every vector.

    This is partition refinement: every vector splits the classes that there are by the counts in it.

    Args:
        n: number of ids.
        vectors: of channel ids, one for each axis of a tensor and each side of a FLOP term.

    Returns:
        Classes, numbered from 0, shape (n,).
    """
    cls = torch.zeros(n, dtype=torch.long)
    classes = 1
    for vector in vectors:
        ids, counts = torch.unique(vector, return_counts=True)
        _, inverse = torch.unique(cls[ids] * (int(counts.max()) + 1) + counts, return_inverse=True)
        cls[ids] = classes + inverse
        classes += int(inverse.max()) + 1
    return cls


def _split_off_singles(free: Tensor, cls: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ids that share their class with another one, and those that are the only one of their class.

    A group of one channel has nothing to choose from, and without its channel the network would be cut in two.

    Args:
        free: channel ids that may go, shape (free,).
        cls: class of every id, shape (ids,).
    """
    alone = torch.bincount(cls[free], minlength=int(cls.max()) + 1)[cls[free]] == 1
    return free[~alone], free[alone]


def _number_groups(free: Tensor, cls: Tensor, n: int) -> _Numbering:
    """Number the groups by their smallest id, and the channels of a group by their ids.

    Ids are handed out in the order of the forward pass, and so are then the groups.

    Args:
        free: ids of the channels of all groups, ascending, shape (free,).
        cls: class of every id, shape (n,); every class is a group.
        n: number of ids.
    """
    # number of the group of every free id
    classes, member = torch.unique(cls[free], return_inverse=True)
    first = torch.full((len(classes),), n).scatter_reduce(0, member, free, "amin")
    order = torch.argsort(first)
    member = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))[member]

    # place within the group: the rank among all channels, sorted by group, less that of the group's first one
    sizes = torch.bincount(member, minlength=len(order))
    by_group = torch.argsort(member, stable=True)
    starts = sizes.cumsum(0) - sizes
    position = torch.zeros(n, dtype=torch.long)
    position[free[by_group]] = torch.arange(len(free)) - starts[member[by_group]]
    return _Numbering(torch.full((n,), -1).scatter_(0, free, member), position, sizes)


def _axes_by_group(axes: dict[AxisKey, Tensor], numbering: _Numbering) -> list[list[Axis]]:
    """Return, for every group, the axes that carry its channels.

    Args:
        axes: channel id (a root) of every index of every axis.
        numbering: of the groups.
    """
    n, sizes = len(numbering.group_of), numbering.sizes.tolist()
    axes_of: list[list[Axis]] = [[] for _ in sizes]
    for (tensor, dim), ids in axes.items():
        owner = numbering.group_of[ids]
        slots = torch.nonzero(owner >= 0).flatten()
        if len(slots):
            # sort the indices by group, then by channel, and split them by group
            rank = owner[slots] * n + numbering.position[ids[slots]]
            found, counts = torch.unique_consecutive(owner[slots].sort().values, return_counts=True)
            parts = slots[torch.argsort(rank, stable=True)].split(counts.tolist())
            for g, part in zip(found.tolist(), parts, strict=True):
                axes_of[g].append(Axis(tensor, dim, part.view(sizes[g], -1)))
    return axes_of


def _channel_groups(
    state: TraceState, axes_of: list[list[Axis]], numbering: _Numbering, root: Tensor
) -> tuple[ChannelGroup, ...]:
    """Return the groups with their names, axes and the lines of source that may hold their sizes.

    Args:
        state: of the pass.
        axes_of: axes of every group.
        numbering: of the groups.
        root: root of every id, shape (ids,).
    """
    lines = {
        line: set(numbering.group_of[root[torch.cat(ids)]].tolist()) for line, ids in state.size_lines.items() if line
    }
    sizes = numbering.sizes.tolist()
    return tuple(
        ChannelGroup(
            name=name,
            size=sizes[g],
            tensors=tuple(axes_of[g]),
            reads=tuple(axis for axis in axes_of[g] if (axis.tensor, axis.dim) in state.readers),
            lines=tuple(line for line, owners in lines.items() if g in owners),
        )
        for g, name in enumerate(_names(axes_of, state.producers))
    )


def _names(axes_of: list[list[Axis]], producers: Container[AxisKey]) -> list[str]:
    """Return the names of the groups: that of the first layer that produces it, numbered where it produces several.

    Args:
        axes_of: axes of every group.
        producers: output axes of convs and linears.
    """
    seen: Counter[str] = Counter()
    names = []
    for axes in axes_of:
        tensor = next((a.tensor for a in axes if (a.tensor, a.dim) in producers), axes[0].tensor)
        name = _layer(tensor)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return names


def _frozen_layers(
    state: TraceState, axes: dict[AxisKey, Tensor], unread: Tensor, reasons: dict[int, str]
) -> tuple[Frozen, ...]:
    """Return what every conv and linear makes that must stay, counted per reason.

    Args:
        state: of the pass.
        axes: channel id (a root) of every index of every axis.
        unread: which ids no conv or linear reads, bool, shape (ids,).
        reasons: why an id must stay.
    """
    # number of the reason of every id: 0 has none, 1 is unread
    texts = list(dict.fromkeys(["", "no conv or linear reads it", *reasons.values()]))
    number = {text: i for i, text in enumerate(texts)}
    code = unread.long()
    code[list(reasons)] = torch.tensor([number[r] for r in reasons.values()], dtype=torch.long)

    # channels per reason of every output axis
    rows = []
    for key, ids in axes.items():
        if key in state.producers:
            name = _layer(key[0])
            counts = torch.bincount(code[ids], minlength=len(texts)).tolist()[1:]
            found = zip(counts, texts[1:], strict=True) if state.producers[key] else [(sum(counts), UNUSED)]
            rows += [Frozen(name, n, text) for n, text in found if n]
    return (*rows, *state.frozen_layers)


def _layer(tensor: str) -> str:
    """Return the name of the layer that holds a weight; the tensor's own name where it is no layer's one weight.

    Args:
        tensor: plain name of a parameter or buffer.
    """
    owner = tensor.rpartition(".")[0].removesuffix(".parametrizations.weight")
    return owner if owner and "weight" in tensor.removeprefix(owner) else tensor


def _flop_model(terms: list[FlopTerm], group_of: Tensor, sizes: Tensor) -> FlopModel:
    """Return the FLOPs as a function of the open channels per group.

    Args:
        terms: of the FLOPs, their ids being roots.
        group_of: group of every id, shape (ids,); -1 for ids that are in no group.
        sizes: channels per group, shape (groups,).
    """
    # axes, and how the groups lie on them
    offsets: list[int] = [1]  # axis 0 is the constant 1
    links: list[tuple[int, int, int]] = []  # axis, group, entries of the axis per channel of the group
    group_sizes = sizes.tolist()

    def axis_of(ids: Tensor | None) -> int:
        """Add the axis of a row or column vector to the lists above, and return its number."""
        if ids is None:
            return 0
        owner = group_of[ids]
        groups, counts = torch.unique_consecutive(owner[owner >= 0].sort().values, return_counts=True)
        for g, count in zip(groups.tolist(), counts.tolist(), strict=True):
            links.append((len(offsets), g, count // group_sizes[g]))
        offsets.append(int((owner < 0).sum()))
        return len(offsets) - 1

    # two axes per term
    rows, cols = [axis_of(t.rows) for t in terms], [axis_of(t.cols) for t in terms]

    def column(values: Iterable[int]) -> Tensor:
        """Return integers as a tensor, shape (values,)."""
        return torch.tensor(list(values), dtype=torch.long)

    # everything as tensors; no term depends on a residual branch yet
    axis, group, mult = (column(c) for c in zip(*links, strict=True)) if links else (column([]),) * 3
    switch = torch.full((len(terms),), -1)
    modules = tuple(t.module for t in terms)
    coef = column(t.coef for t in terms)
    return FlopModel(0, coef, column(rows), column(cols), column(offsets), axis, group, mult, sizes, switch, modules)
