"""TODO."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


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

    def lengths(self, open_counts: Tensor) -> Tensor:
        """What is left of every axis, shape (..., axes), with `opened` channels left per group, shape (..., groups)."""
        left = self.offset.expand(*open_counts.shape[:-1], -1)
        return left.index_add(-1, self.axis, self.mult * open_counts[..., self.group])

    def counts(self, open_counts: Tensor) -> Tensor:
        """FLOPs with `opened` channels left per group, shape (..., groups), int64."""
        n = self.lengths(open_counts)
        terms = self.coef * n[..., self.row] * n[..., self.col]
        if self._switched:
            terms = torch.where((self.switch >= 0) & (open_counts[..., self.switch] == 0), 0, terms)
        return self.const + terms.sum(-1)

    def count(self, open_counts: Tensor) -> int:
        """FLOPs with `opened` channels left per group, shape (groups,), int64."""
        return int(self.counts(open_counts))

    def expected(self, open_counts: Tensor) -> float:
        """FLOPs at counts that need not be whole, shape (groups,), float64; no block goes."""
        coef, row, col, offset, axis, group, mult = self._arrays
        n = offset + np.bincount(axis, mult * open_counts.numpy()[group], len(offset))
        return self.const + float((coef * n[row] * n[col]).sum())

    def marginal(self, open_counts: Tensor) -> Tensor:
        """FLOPs one channel of every group carries at these counts, whole or not, shape (groups,), float64."""
        coef, row, col, offset, axis, group, mult = self._arrays
        if self._switched:
            coef = np.where(((self.switch >= 0) & (open_counts[self.switch] == 0)).numpy(), 0, coef)
        n = offset + np.bincount(axis, mult * open_counts.numpy()[group], len(offset))
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
