"""Label the elements of an activation with channel ids, and join the ids of channels that are one and the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

FROZEN_ID = 0  # the id of elements that no surgery may remove: network inputs, zero padding, constants
ANY_ID = -1  # the id of the copies that a written broadcast makes of one element: they go with whatever they meet

UNKNOWN_SIZE = -1  # a size that depends on data, as that of `torch.nonzero`


@dataclass(frozen=True)
class Labels:
    """Channel ids of the elements of an activation.

    Only what varies is stored, which makes tracing cheap: the labels of an activation of shape (1, 64, 112, 112) are
    64 numbers.

    Attributes:
        ids: channel ids, int64; broadcasts to `shape`, with size 1 along every dimension on which they do not vary.
        shape: of the activation.
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
        """Return labels with one id given for every element.

        Args:
            full: channel ids, of the shape of the activation.
        """
        return cls(full, tuple(full.shape))

    @classmethod
    def frozen(cls, shape: tuple[int, ...]) -> Labels:
        """Return labels of an activation that belongs to no channel and must stay as it is.

        Args:
            shape: of the activation.
        """
        return cls(torch.zeros([1] * len(shape), dtype=torch.long), shape)

    @classmethod
    def along(cls, vector: Tensor, dim: int, shape: tuple[int, ...]) -> Labels:
        """Return labels that vary along one dimension only.

        Args:
            vector: channel id of every index along `dim`, shape (size along dim,).
            dim: the dimension.
            shape: of the activation.
        """
        view = [1] * len(shape)
        view[dim] = len(vector)
        return cls(vector.view(view), shape)

    def full(self) -> Tensor:
        """Return the id of every element, shape `shape`; a view that takes no memory."""
        return self.ids.expand(self.shape)

    def varies(self, dim: int) -> bool:
        """Return whether the ids differ along a dimension.

        Args:
            dim: the dimension.
        """
        return self.ids.shape[dim] > 1


@dataclass
class ChannelIds:
    """Hand out channel ids, and remember which of them are joined and which are frozen, and why.

    Attributes:
        count: ids handed out so far; the first one is `FROZEN_ID`.
    """

    count: int = 1
    _pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _frozen: list[tuple[Tensor, str]] = field(default_factory=list)

    def new(self, n: int) -> Tensor:
        """Return new ids, shape (n,).

        Args:
            n: how many.
        """
        ids = torch.arange(self.count, self.count + n)
        self.count += n
        return ids

    def union(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Join `a[i]` with `b[i]` for every i: they are one channel. What is joined with `FROZEN_ID` is frozen.

        `ANY_ID` is joined with nothing.

        Args:
            a: channel ids, of a shape that broadcasts with that of `b`.
            b: channel ids.
            reason: why ids that are joined with `FROZEN_ID` must stay, in words.
        """
        a, b = (t.reshape(-1) for t in torch.broadcast_tensors(a, b))
        differ = (a != b) & (a != ANY_ID) & (b != ANY_ID)
        a, b = a[differ], b[differ]
        stay = (a == FROZEN_ID) | (b == FROZEN_ID)
        if bool(stay.any()):
            self.freeze(torch.maximum(a, b)[stay], reason)
        if not bool(stay.all()):
            self._pairs.append((a[~stay], b[~stay]))

    def union_slices(self, labels: Labels, dim: int, reason: str) -> Tensor:
        """Join all ids that share an index along a dimension, and return one id per index.

        Args:
            labels: an activation.
            dim: the dimension.
            reason: why ids that are joined with `FROZEN_ID` must stay, in words.

        Returns:
            Channel ids, shape (size along dim,). Copies that a written broadcast made are frozen: the number of them
            that a layer reads is taken to be fixed.
        """
        rows = labels.ids.movedim(dim, 0).flatten(1) if labels.ids.dim() > 1 else labels.ids.view(-1, 1)
        first = rows[:, 0]
        for column in rows.unbind(1)[1:] if bool((rows == ANY_ID).any()) else ():
            first = either(first, column)
        if rows.shape[1] > 1:
            self.union(first[:, None], rows, reason)
        return first.clamp_min(FROZEN_ID).expand(labels.shape[dim])

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Note that channels must stay.

        Args:
            ids: channel ids of any shape; `FROZEN_ID` and `ANY_ID` among them are passed over.
            reason: in words; where a channel has several, the first one counts.
        """
        ids = torch.unique(ids)
        ids = ids[ids > FROZEN_ID]
        if len(ids):
            self._frozen.append((ids, reason))

    def roots(self) -> tuple[Tensor, dict[int, str]]:
        """Return which ids are one channel, and which channels must stay.

        Returns:
            The smallest id that each id is joined with (its root), shape (count,), and the first reason of every root
            that is frozen.
        """
        ends = [torch.cat(side) for side in zip(*self._pairs, strict=True)] or [torch.empty(0, dtype=torch.long)] * 2
        root = connected_components(self.count, ends[0], ends[1])
        reasons: dict[int, str] = {}
        for ids, reason in self._frozen:
            for r in torch.unique(root[ids]).tolist():
                reasons.setdefault(r, reason)
        return root, reasons


def either(ids: Tensor, others: Tensor) -> Tensor:
    """Return ids with others in the place of copies that a written broadcast made.

    Args:
        ids: channel ids.
        others: of a shape that broadcasts with that of `ids`.
    """
    return torch.where(ids == ANY_ID, others, ids)


def connected_components(n: int, a: Tensor, b: Tensor) -> Tensor:
    """Return, for each node, the smallest node it is connected to by the edges `a[i] - b[i]`.

    Hooking and pointer jumping on whole tensors (Shiloach and Vishkin, 1982): O(log n) rounds, no loop over edges.

    Args:
        n: number of nodes.
        a: one end of every edge, in [0, n), shape (edges,).
        b: the other end, shape (edges,).

    Returns:
        Nodes, shape (n,).

    >>> connected_components(5, torch.tensor([1, 3]), torch.tensor([3, 4])).tolist()
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
