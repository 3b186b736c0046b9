"""Rank the channels of all groups by importance per FLOP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdp.graph import FlopModel


@dataclass(frozen=True)
class Ranking:
    """Channels that are not closed, in falling order of importance per FLOP.

    Attributes:
        channel: index of each among the channels of all groups, shape (open channels,).
        ratio: importance per FLOP of each, shape (open channels,), float64.
        group: index of the group of each, shape (open channels,).
        places: positions in this order of the channels of group 0, then those of group 1 and so on, rising within a
            group, shape (open channels,).
        start: where the channels of every group begin in `places`, and the end of the last, shape (groups + 1,).
        importance: of every channel of all groups, closed ones included, shape (channels of all groups,), float64.
    """

    channel: np.ndarray
    ratio: np.ndarray
    group: np.ndarray
    places: np.ndarray
    start: np.ndarray
    importance: Tensor

    @classmethod
    def of(cls, importance: Tensor, group_of: Tensor, is_open: Tensor, flops: FlopModel) -> Ranking:
        """Rank channels by importance per FLOP.

        A channel's FLOPs are the marginal ones with all channels open that are not closed for good.

        Args:
            importance: what the loss would suffer without each channel, not negative, in any unit, shape (channels of
                all groups,), on the CPU.
            group_of: index of the group of every channel, shape (channels of all groups,).
            is_open: False for channels that are closed for good, shape (channels of all groups,).
            flops: the FLOPs as a function of open counts.
        """
        # importance per FLOP of every open channel
        groups, importance = len(flops.sizes), importance.double()
        open_now = np.flatnonzero(is_open.numpy())
        group = group_of.numpy()[open_now]
        limit = np.bincount(group, minlength=groups)
        ratio = importance.numpy()[open_now] / np.maximum(flops.marginal(torch.from_numpy(limit)).numpy(), 1e-30)[group]
        ratio = np.nan_to_num(ratio, nan=0.0, posinf=np.finfo(np.float64).max)

        order = _argsort_descending(ratio)
        group = group[order]
        # numpy sorts integers of 16 bits by radix, ten times as fast as longer ones
        places = np.argsort(group.astype(np.uint16) if groups < 2**16 else group, kind="stable")
        return cls(open_now[order], ratio[order], group, places, np.concatenate([[0], limit.cumsum()]), importance)

    @property
    def limit(self) -> Tensor:
        """Open channels of every group, shape (groups,)."""
        return torch.from_numpy(np.diff(self.start))

    @property
    def _rank_in_group(self) -> np.ndarray:
        """Rank within its group of every entry of `places`; 0 is the highest importance per FLOP."""
        rank: np.ndarray = np.arange(len(self.places)) - np.repeat(self.start[:-1], np.diff(self.start))
        return rank

    def importance_of_first(self) -> Tensor:
        """Return the importance of the first k channels of every group together, for k = 0, 1, ...

        Returns:
            Importance, shape (groups, open channels of the largest group + 1), float64; beyond its own channels a
            group's row stays at its total.
        """
        table = torch.zeros(len(self.start) - 1, int(self.limit.max()) + 1, dtype=torch.float64)
        group, rank = self.group[self.places], self._rank_in_group
        table[torch.from_numpy(group), torch.from_numpy(rank) + 1] = self.importance[self.channel[self.places]]
        return table.cumsum(1)

    def keep_mask(self, open_counts: Tensor) -> Tensor:
        """Return which channels are kept if the first ones of every group are.

        Args:
            open_counts: how many channels of every group, shape (groups,), int64.

        Returns:
            Bool, shape (channels of all groups,).
        """
        kept = self.places[self._rank_in_group < np.repeat(open_counts.numpy(), np.diff(self.start))]
        mask = np.zeros(len(self.importance), dtype=bool)
        mask[self.channel[kept]] = True
        return torch.from_numpy(mask)


def _argsort_descending(ratio: np.ndarray) -> np.ndarray:
    """Return the indices that sort numbers in falling order; equal ones keep their order.

    An unstable sort, after which only equal numbers are put in order: numpy's stable sort takes seven times as long.

    Args:
        ratio: finite numbers, shape (channels,).

    Returns:
        Indices, shape (channels,), int64.
    """
    order = np.argsort(-ratio)
    found = ratio[order]

    # `starts_run[i]`: entry i differs from the one before; a run is a stretch of equal numbers
    starts_run = np.concatenate([[True], found[1:] != found[:-1], [True]])[: len(ratio) + 1]
    tied = np.flatnonzero(~(starts_run[:-1] & starts_run[1:]))

    # sort the tied entries by run, and by index within a run
    if len(tied):
        run = starts_run[:-1].cumsum()[tied]
        order[tied] = np.sort(run * len(order) + order[tied]) % len(order)
    return np.asarray(order)
