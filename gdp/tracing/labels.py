"""Label tensors: which channel unit every element of an activation belongs to, and which units are one and the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

FROZEN_ID = 0  # the label of elements that no surgery may remove: network inputs, zero padding, constants


@dataclass(frozen=True)
class Labels:
    """Unit ids of an activation of shape `shape`; `ids` has size 1 along every dimension on which they do not vary.

    Keeping only what varies is what makes tracing cheap: the labels of a 64x112x112 activation are 64 numbers.
    """

    ids: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        ids = self.ids
        for dim in range(ids.dim()):
            if ids.shape[dim] > 1:
                first = ids.narrow(dim, 0, 1)
                if ids.stride(dim) == 0 or bool((ids == first).all()):
                    ids = first
        object.__setattr__(self, "ids", ids)

    @classmethod
    def of(cls, full: Tensor) -> Labels:
        """Labels of the shape of `full`, whose entries they are."""
        return cls(full, tuple(full.shape))

    @classmethod
    def frozen(cls, shape: tuple[int, ...]) -> Labels:
        return cls(torch.zeros([1] * len(shape), dtype=torch.long), shape)

    @classmethod
    def along(cls, vector: Tensor, dim: int, shape: tuple[int, ...]) -> Labels:
        """Labels that vary along `dim` only, where they are `vector`."""
        view = [1] * len(shape)
        view[dim] = len(vector)
        return cls(vector.view(view), shape)

    def full(self) -> Tensor:
        return self.ids.expand(self.shape)

    def varies(self, dim: int) -> bool:
        return self.ids.shape[dim] > 1


@dataclass
class ChannelIds:
    """Hands out channel units, remembers which are tied to each other and which must stay, and why."""

    count: int = 1  # unit 0 is STAY
    _pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _frozen: list[tuple[Tensor, str]] = field(default_factory=list)

    def new(self, n: int) -> Tensor:
        """Return the ids of `n` new units."""
        ids = torch.arange(self.count, self.count + n)
        self.count += n
        return ids

    def union(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Make `a[i]` and `b[i]` the same unit; a unit tied to STAY must stay, for `reason`."""
        a, b = (t.reshape(-1) for t in torch.broadcast_tensors(a, b))
        differ = a != b
        a, b = a[differ], b[differ]
        stay = (a == FROZEN_ID) | (b == FROZEN_ID)
        if bool(stay.any()):
            self.freeze(torch.maximum(a, b)[stay], reason)
        if not bool(stay.all()):
            self._pairs.append((a[~stay], b[~stay]))

    def union_slices(self, labels: Labels, dim: int, reason: str) -> Tensor:
        """Tie all units that share an index along `dim`; return one id per index, shape (size,)."""
        rows = labels.ids.movedim(dim, 0).flatten(1) if labels.ids.dim() > 1 else labels.ids.view(-1, 1)
        if rows.shape[1] > 1:
            self.union(rows[:, :1], rows, reason)
        return rows[:, 0].expand(labels.shape[dim])

    def freeze(self, ids: Tensor, reason: str) -> None:
        """These units must stay, for `reason`."""
        ids = torch.unique(ids)
        ids = ids[ids != FROZEN_ID]
        if len(ids):
            self._frozen.append((ids, reason))

    def roots(self) -> tuple[Tensor, dict[int, str]]:
        """Return the root of every unit, shape (count,), and the first reason of every root that must stay."""
        ends = [torch.cat(side) for side in zip(*self._pairs, strict=True)] or [torch.empty(0, dtype=torch.long)] * 2
        root = connected_components(self.count, ends[0], ends[1])
        reasons: dict[int, str] = {}
        for ids, reason in self._frozen:
            for r in torch.unique(root[ids]).tolist():
                reasons.setdefault(r, reason)
        return root, reasons


def connected_components(n: int, a: Tensor, b: Tensor) -> Tensor:
    """Return, for each of `n` nodes, the smallest node it is connected to by the edges `a[i] - b[i]`.

    Hooking and pointer jumping on whole tensors (Shiloach and Vishkin, 1982): O(log n) rounds, no loop over edges.

    >>> components(5, torch.tensor([1, 3]), torch.tensor([3, 4])).tolist()
    [0, 1, 2, 1, 1]
    """
    root = torch.arange(n)
    while True:
        low = torch.minimum(root[a], root[b])
        hooked = root.scatter_reduce(0, root[a], low, "amin").scatter_reduce(0, root[b], low, "amin")
        jumped = hooked[hooked]
        if torch.equal(jumped, root):
            return root
        root = jumped
