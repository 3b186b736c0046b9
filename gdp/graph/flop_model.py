"""Compute the FLOPs of a network from the number of open channels of every group."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FlopModel:
    """FLOPs of a network, as fvcore counts them, as a function of the open channels of every group.

    `F = const + sum_t coef_t * n(row_t) * n(col_t)`, where `n(a) = offset_a + sum_g mult_ag * open_g` is the length of
    axis a. This is bilinear in the open counts, as in GDP (arXiv 2109.02220), and everything is an exact integer. The
    terms of a residual branch that may be removed as a whole count as long as the group in `switch` has an open
    channel. All tensors are int64 on the CPU.

    Attributes:
        const: FLOPs that no channel changes.
        coef: FLOPs per pair of a row and a column, shape (terms,).
        row: axis of the rows of every term, shape (terms,).
        col: axis of the columns of every term, shape (terms,).
        offset: entries of every axis that always stay, shape (axes,).
        axis: axis of every link of an axis to a group, shape (links,).
        group: group of every link, shape (links,).
        mult: entries of the axis per channel of the group, shape (links,).
        sizes: channels of every group, shape (groups,).
        switch: the group that decides whether a term counts, or -1 if it always does, shape (terms,).
        modules: plain name of the layer of every term, `terms` of them.
    """

    const: int
    coef: Tensor
    row: Tensor
    col: Tensor
    offset: Tensor
    axis: Tensor
    group: Tensor
    mult: Tensor
    sizes: Tensor
    switch: Tensor
    modules: tuple[str, ...]

    def lengths(self, open_counts: Tensor) -> Tensor:
        """Return the length of every axis.

        Args:
            open_counts: open channels per group, shape (..., groups), int64.

        Returns:
            Lengths, shape (..., axes), int64.
        """
        always = self.offset.expand(*open_counts.shape[:-1], -1)
        return always.index_add(-1, self.axis, self.mult * open_counts[..., self.group])

    def counts(self, open_counts: Tensor) -> Tensor:
        """Return the FLOPs of several vectors of open counts at once.

        Args:
            open_counts: open channels per group, shape (..., groups), int64.

        Returns:
            FLOPs, shape (...), int64.
        """
        n = self.lengths(open_counts)
        terms = self.coef * n[..., self.row] * n[..., self.col]
        if self._switched:
            terms = torch.where((self.switch >= 0) & (open_counts[..., self.switch] == 0), 0, terms)
        return self.const + terms.sum(-1)

    def count(self, open_counts: Tensor) -> int:
        """Return the FLOPs of one vector of open counts.

        Args:
            open_counts: open channels per group, shape (groups,), int64.
        """
        return int(self.counts(open_counts))

    def expected(self, open_counts: Tensor) -> float:
        """Return the FLOPs at open counts that need not be whole; terms of residual branches always count.

        Args:
            open_counts: open channels per group, shape (groups,), float64.
        """
        coef, row, col, offset, axis, group, mult = self._arrays
        n = offset + np.bincount(axis, mult * open_counts.numpy()[group], len(offset))
        return self.const + float((coef * n[row] * n[col]).sum())

    def marginal(self, open_counts: Tensor) -> Tensor:
        """Return the FLOPs that one channel of every group carries: the derivative by every open count.

        Args:
            open_counts: open channels per group, whole or not, shape (groups,).

        Returns:
            FLOPs per channel, shape (groups,), float64.
        """
        coef, row, col, offset, axis, group, mult = self._arrays
        if self._switched:
            coef = np.where(((self.switch >= 0) & (open_counts[self.switch] == 0)).numpy(), 0, coef)
        n = offset + np.bincount(axis, mult * open_counts.numpy()[group], len(offset))
        by_axis = np.bincount(row, coef * n[col], len(n)) + np.bincount(col, coef * n[row], len(n))
        return torch.from_numpy(np.bincount(group, mult * by_axis[axis], len(self.sizes)))

    @cached_property
    def _switched(self) -> bool:
        """Whether any term belongs to a residual branch that may be removed as a whole."""
        return bool((self.switch >= 0).any())

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        """The tensors as numpy arrays, in the order in which the formulas take them apart."""
        tensors = (self.coef, self.row, self.col, self.offset, self.axis, self.group, self.mult)
        return tuple(tensor.numpy() for tensor in tensors)

    @cached_property
    def curvature(self) -> Tensor:
        """Half of the second derivative of the FLOPs by every open count, shape (groups,), float64.

        With k more channels in one group, `F(n + k) = F(n) + k * marginal + k^2 * curvature`.
        """
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
