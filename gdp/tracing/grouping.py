"""From tied units to channel groups: units that touch the same axes equally often form one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gdp.graph import Axis, ChannelGraph, ChannelGroup, FlopModel, Frozen
from gdp.tracing.labels import FROZEN_ID
from gdp.tracing.trace_state import FlopTerm, TraceState


def group_channels(walk: TraceState, inputs: tuple[Any, ...]) -> ChannelGraph:
    """Turn what a walk collected into a ChannelGraph."""
    root, reasons = walk.channel_ids.roots()
    axes = {key: root[vector] for key, vector in walk.axes.items()}
    terms = [replace(t, rows=_at(root, t.rows), cols=_at(root, t.cols)) for t in walk.flops]
    loose = [v for t in terms for v in (t.rows, t.cols) if v is not None]

    cls = _refine(len(root), [*axes.values(), *loose])
    read = torch.zeros(len(root), dtype=torch.bool)
    for key in walk.readers:
        read[axes[key]] = True
    met = torch.zeros(len(root), dtype=torch.bool)
    for vector in axes.values():
        met[vector] = True
    stay = torch.zeros(len(root), dtype=torch.bool)
    stay[[FROZEN_ID, *reasons]] = True
    free = torch.nonzero(met & read & ~stay).flatten()
    alone = torch.bincount(cls[free], minlength=int(cls.max()) + 1)[cls[free]] == 1
    reasons |= dict.fromkeys(
        free[alone].tolist(), "its channels are one unit, which can't go without cutting the network"
    )
    stay[free[alone]] = True
    free = free[~alone]

    # groups in order of their first unit, units in order of their label
    classes, member = torch.unique(cls[free], return_inverse=True)
    first = torch.full((len(classes),), len(root)).scatter_reduce(0, member, free, "amin")
    order = torch.argsort(first)
    member = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))[member]
    sizes = torch.bincount(member, minlength=len(order))
    group_of = torch.full((len(root),), -1).scatter_(0, free, member)
    by_group = torch.argsort(member, stable=True)
    starts = sizes.cumsum(0) - sizes
    seat = torch.zeros(len(root), dtype=torch.long)
    seat[free[by_group]] = torch.arange(len(free)) - starts[member[by_group]]

    group_sizes = sizes.tolist()
    touched: list[list[tuple[tuple[str, int], Axis]]] = [[] for _ in range(len(order))]
    for key, vector in axes.items():
        owner = group_of[vector]
        slots = torch.nonzero(owner >= 0).flatten()
        if len(slots):
            at = owner[slots] * len(root) + seat[vector[slots]]  # by group, then by channel
            found, counts = torch.unique_consecutive(owner[slots].sort().values, return_counts=True)
            parts = slots[torch.argsort(at, stable=True)].split(counts.tolist())
            for g, part in zip(found.tolist(), parts, strict=True):
                touched[g].append((key, Axis(key[0], key[1], part.view(group_sizes[g], -1))))

    lines = {line: set(group_of[root[torch.cat(met)]].tolist()) for line, met in walk.size_lines.items() if line}
    names = _names([[key for key, _ in axes_of] for axes_of in touched], walk)
    groups = tuple(
        ChannelGroup(
            name=names[g],
            size=int(sizes[g]),
            tensors=tuple(axis for _, axis in touched[g]),
            reads=tuple(axis for key, axis in touched[g] if key in walk.readers),
            lines=tuple(line for line, owners in lines.items() if g in owners),
        )
        for g in range(len(order))
    )
    frozen = _frozen(walk, axes, met & ~read & ~stay, reasons)
    return ChannelGraph(groups, frozen, _flop_model(terms, group_of, sizes), dict(walk.shapes), inputs)


def _at(root: Tensor, vector: Tensor | None) -> Tensor | None:
    return None if vector is None else root[vector]


def _refine(n: int, vectors: list[Tensor]) -> Tensor:
    """Two units get the same class iff they occur equally often in every vector (partition refinement)."""
    cls = torch.zeros(n, dtype=torch.long)
    classes = 1
    for vector in vectors:
        units, counts = torch.unique(vector, return_counts=True)
        _, inverse = torch.unique(cls[units] * (int(counts.max()) + 1) + counts, return_inverse=True)
        cls[units] = classes + inverse
        classes += int(inverse.max()) + 1
    return cls


def _names(touched: list[list[tuple[str, int]]], walk: TraceState) -> list[str]:
    """A group is named after its first producer; later groups of the same producer get a number."""
    seen: Counter[str] = Counter()
    names = []
    for keys in touched:
        tensor = next((t for t, d in keys if (t, d) in walk.producers), keys[0][0])
        name = _layer(tensor)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return names


def _frozen(
    walk: TraceState, axes: dict[tuple[str, int], Tensor], unread: Tensor, reasons: dict[int, str]
) -> tuple[Frozen, ...]:
    """What every conv and linear makes that must stay, counted per reason."""
    texts = list(dict.fromkeys(["", "no conv or linear reads it", *reasons.values()]))
    number = {text: i for i, text in enumerate(texts)}
    code = unread.long()  # 1: unread, see `texts`
    code[list(reasons)] = torch.tensor([number[r] for r in reasons.values()], dtype=torch.long)
    rows = []
    for key, vector in axes.items():
        if key in walk.producers:
            name = _layer(key[0])
            counts = torch.bincount(code[vector], minlength=len(texts)).tolist()
            rows += [Frozen(name, n, text) for n, text in zip(counts, texts, strict=True) if n and text]
    return (*rows, *walk.frozen_layers)


def _layer(tensor: str) -> str:
    """The layer a weight belongs to; its own name where it hangs on the network itself."""
    return tensor.rpartition(".")[0].removesuffix(".parametrizations.weight") or tensor


def _flop_model(terms: list[FlopTerm], group_of: Tensor, sizes: Tensor) -> FlopModel:
    offsets: list[int] = [1]  # axis 0 is the constant 1
    links: list[tuple[int, int, int]] = []  # axis, group, multiplicity
    group_sizes = sizes.tolist()

    def axis_of(vector: Tensor | None) -> int:
        if vector is None:
            return 0
        owner = group_of[vector]
        groups, mult = torch.unique_consecutive(owner[owner >= 0].sort().values, return_counts=True)
        for g, m in zip(groups.tolist(), mult.tolist(), strict=True):
            links.append((len(offsets), g, m // group_sizes[g]))
        offsets.append(int((owner < 0).sum()))
        return len(offsets) - 1

    rows, cols = [axis_of(t.rows) for t in terms], [axis_of(t.cols) for t in terms]

    def column(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long)

    axis, group, mult = (column(c) for c in zip(*links, strict=True)) if links else (column([]),) * 3
    switch = torch.full((len(terms),), -1)
    modules = tuple(t.module for t in terms)
    coef = column(t.coef for t in terms)
    return FlopModel(0, coef, column(rows), column(cols), column(offsets), axis, group, mult, sizes, switch, modules)
