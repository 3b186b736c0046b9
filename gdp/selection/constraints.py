"""Widths: which numbers of open channels a network may have: the least, multiples, blocks that go as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd

import numpy as np
import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph import ChannelGraph, ChannelGroup, FlopModel


@dataclass(frozen=True)
class WidthConstraints:
    """The legal open counts of every group.

    Attributes:
        size: channels of every group, shape (groups,).
        least: open channels that every group keeps at least, unless its block goes.
        step: counts are multiples of this, or all channels.
        blocks: groups of every block that may go as a whole, once one of its groups is left with fewer than `least`.
    """

    sizes: Tensor
    min_width: Tensor
    divisor: Tensor
    blocks: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, graph: ChannelGraph, min_channels: float = 1, round_to: int = 1) -> WidthConstraints:
        """The widths that a user asked for; blocks are those of the graph.

        Raises:
            GDPError: `min_channels` or `round_to` is no number it could be.
        """
        check_width_options(min_channels, round_to)
        size = graph.flops.sizes
        step = torch.tensor(
            [round_to // gcd(round_to, _layer_channels_per_unit(g)) for g in graph.groups], dtype=torch.long
        )
        share = [ceil(min_channels * n) if isinstance(min_channels, float) else min_channels for n in size.tolist()]
        least = torch.tensor([max(n, 1) for n in share], dtype=torch.long)
        number = {group.name: i for i, group in enumerate(graph.groups)}
        blocks = tuple(torch.tensor([number[name] for name in block.groups]) for block in graph.blocks)
        return cls(size, torch.minimum(-(-least // step) * step, size), step, blocks)

    def round_down(self, open_counts: Tensor) -> Tensor:
        """The largest legal counts no larger than `counts`, shape (..., groups); at least the smallest ones."""
        down = torch.where(open_counts >= self.sizes, self.sizes, open_counts // self.divisor * self.divisor)
        legal = torch.maximum(down, self.min_width)
        for block in self.blocks:
            gone = (down[..., block] < self.min_width[block]).any(-1, keepdim=True)
            legal[..., block] = torch.where(gone, 0, legal[..., block])
        return legal

    @property
    def smallest(self) -> Tensor:
        """The legal counts of the smallest network."""
        return self.round_down(torch.zeros_like(self.sizes))

    def with_min_fraction(self, share: float) -> Tensor:
        """The smallest legal counts that leave every group this share of its channels; blocks may go all the same."""
        least = (self.sizes * share).ceil().long()
        counts = torch.minimum(torch.maximum(self.smallest, -(-least // self.divisor) * self.divisor), self.sizes)
        for block in self.blocks:
            counts[block] = self.smallest[block]
        return counts

    def next_width(self, open_counts: Tensor, group: int) -> Tensor:
        """Legal counts with the next number of channels in one group; a whole block comes back at its smallest."""
        more = open_counts.clone()
        for block in self.blocks:
            if group in block.tolist() and not bool(open_counts[block].all()):
                more[block] = self.min_width[block]
                return more
        more[group] = min(
            int((open_counts[group] // self.divisor[group] + 1) * self.divisor[group]), int(self.sizes[group])
        )
        return more

    def step_costs(self, open_counts: Tensor, flops: FlopModel) -> np.ndarray:
        """FLOPs that `wider` adds in every group, shape (groups,); at most that many where a whole block comes back."""
        step = torch.minimum((open_counts // self.divisor + 1) * self.divisor, self.sizes) - open_counts
        step = torch.where(open_counts > 0, step, torch.minimum(self.divisor, self.sizes))
        return (step * (flops.marginal(open_counts) + torch.where(open_counts > 0, step * flops.curvature, 0))).numpy()

    def widths_after(self, open_counts: Tensor, steps: Tensor) -> Tensor:
        """Legal counts after so many steps in every group, shape (..., groups); no block that has gone comes back."""
        wide = torch.minimum((open_counts // self.divisor + steps) * self.divisor, self.sizes)
        return torch.where(steps > 0, wide, open_counts)

    def levels(self, floor: Tensor, limit: Tensor) -> list[list[int]]:
        """Legal counts of every group from `floor` to `limit`; 0 is one of them where a block may go."""
        found = []
        in_blocks = {g for block in self.blocks for g in block.tolist()}
        for g, (size, step, least) in enumerate(
            zip(*(t.tolist() for t in (self.sizes, self.divisor, self.min_width)), strict=True)
        ):
            low, high = max(int(floor[g]), least), int(limit[g])
            counts = [n for n in range(low, high + 1) if n in (least, size) or n % step == 0]
            found.append([0, *counts] if g in in_blocks and floor[g] == 0 else counts)
        return found

    def branches_consistent(self, counts: Tensor) -> Tensor:
        """Which count vectors, shape (vectors, groups), leave no block with some of its groups empty."""
        fine = torch.ones(len(counts), dtype=torch.bool)
        for block in self.blocks:
            empty = counts[:, block] == 0
            fine &= empty.all(1) | ~empty.any(1)
        return fine


def check_width_options(min_channels: float, round_to: int) -> None:
    """Refuse what is no number of channels.

    Raises:
        GDPError: it is none.
    """
    whole = isinstance(min_channels, int) and not isinstance(min_channels, bool) and min_channels >= 1
    if not whole and not (isinstance(min_channels, float) and 0 < min_channels <= 1):
        raise GDPError(
            "Expected `min_channels` to be a number of channels (int, 1 or more) or a fraction of each group (float in "
            f"(0, 1]), but got {min_channels!r}."
        )
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise GDPError(f"Expected `round_to` to be an int of 1 or more, but got {round_to!r}.")


def _layer_channels_per_unit(group: ChannelGroup) -> int:
    """Channels of a layer that one channel of the group stands for (the members of a norm group, for instance)."""
    made = [axis.index.shape[1] for axis in group.tensors if axis not in group.reads]
    return min(made, default=1)
