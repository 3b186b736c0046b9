"""TODO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdp.graph import FlopModel


@dataclass(frozen=True)
class Ranking:
    """The channels that are not closed, the worthiest per FLOP first.

    Attributes:
        channel: which channel of all groups it is, shape (open channels,).
        ratio: worth per FLOP.
        group: the group of each.
        places: where in this order the channels of every group stand, one group after the other.
        start: where a group begins in `places`, shape (groups + 1,).
        worth: of every channel of all groups, float64.
    """

    channel: np.ndarray
    ratio: np.ndarray
    group: np.ndarray
    places: np.ndarray
    start: np.ndarray
    importance: Tensor

    @classmethod
    def of(cls, importance: Tensor, group_of: Tensor, is_open: Tensor, flops: FlopModel) -> Ranking:
        """Rank channels.

        Args:
            worth: how much the loss would suffer without each channel, shape (channels,), not negative.
            group_of: group of every channel.
            alive: channels that are not closed for good.
            flops: the FLOPs as a function of open counts.
        """
        groups, importance = len(flops.sizes), importance.double()
        open_now = np.flatnonzero(is_open.numpy())
        group = group_of.numpy()[open_now]
        limit = np.bincount(group, minlength=groups)
        ratio = importance.numpy()[open_now] / np.maximum(flops.marginal(torch.from_numpy(limit)).numpy(), 1e-30)[group]
        ratio = np.nan_to_num(ratio, nan=0.0, posinf=np.finfo(np.float64).max)
        order = _argsort_descending(ratio)
        group = group[order]
        # integers of 16 bits are sorted by radix, ten times as fast
        places = np.argsort(group.astype(np.uint16) if groups < 2**16 else group, kind="stable")
        return cls(open_now[order], ratio[order], group, places, np.concatenate([[0], limit.cumsum()]), importance)

    @property
    def limit(self) -> Tensor:
        """Open channels of every group, shape (groups,)."""
        return torch.from_numpy(np.diff(self.start))

    @property
    def _seat(self) -> np.ndarray:
        """Which of its group's channels stands in `places`, the worthiest being 0."""
        seat: np.ndarray = np.arange(len(self.places)) - np.repeat(self.start[:-1], np.diff(self.start))
        return seat

    def importance_of_first(self) -> Tensor:
        """What the first k channels of every group are worth, shape (groups, largest k + 1)."""
        worth = torch.zeros(len(self.start) - 1, int(self.limit.max()) + 1, dtype=torch.float64)
        group, seat = self.group[self.places], self._seat
        worth[torch.from_numpy(group), torch.from_numpy(seat) + 1] = self.importance[self.channel[self.places]]
        return worth.cumsum(1)

    def keep_mask(self, open_counts: Tensor) -> Tensor:
        """The first so many channels of every group, one bool per channel of all groups."""
        kept = self.places[self._seat < np.repeat(open_counts.numpy(), np.diff(self.start))]
        keep = np.zeros(len(self.importance), dtype=bool)
        keep[self.channel[kept]] = True
        return torch.from_numpy(keep)


def _argsort_descending(ratio: np.ndarray) -> np.ndarray:
    """Where the largest stand, in order. numpy's stable sort takes seven times as long; here ties are sorted after."""
    order = np.argsort(-ratio)
    found = ratio[order]
    first = np.concatenate([[True], found[1:] != found[:-1], [True]])[: len(ratio) + 1]
    tied = np.flatnonzero(~(first[:-1] & first[1:]))
    if len(tied):
        run = first[:-1].cumsum()[tied]
        order[tied] = np.sort(run * len(order) + order[tied]) % len(order)
    return np.asarray(order)
