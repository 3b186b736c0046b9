"""Define which open counts are legal: minimum widths, multiples, residual branches that are removed as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, gcd

import numpy as np
import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph import ChannelGraph, ChannelGroup, FlopModel


@dataclass(frozen=True)
class WidthConstraints:
    """Legal open counts of every group.

    A count is legal if it is at least `min_width`, and either a multiple of `divisor` or the whole group.
    A residual branch that may be removed as a whole is removed as soon as one of its groups falls below `min_width`;
    all of its groups have 0 open channels then.

    Attributes:
        sizes: channels of every group, shape (groups,), int64.
        min_width: smallest open count of every group, unless its residual branch is removed, shape (groups,), int64.
        divisor: open counts are multiples of this, or the whole group, shape (groups,), int64.
        blocks: for every residual branch that may be removed as a whole, the indices of its groups, a vector of int64.
    """

    sizes: Tensor
    min_width: Tensor
    divisor: Tensor
    blocks: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, graph: ChannelGraph, min_channels: float = 1, round_to: int = 1) -> WidthConstraints:
        """Return the constraints that a user asked for; residual branches are those of the graph.

        Args:
            graph: of the network.
            min_channels: channels that every group keeps at least (int, 1 or more), or a fraction of each group (float
                in (0, 1]).
            round_to: layers get a multiple of so many channels, or all of theirs; 1 or more.

        Raises:
            GDPError: `min_channels` or `round_to` is out of its range or of another type.
        """
        check_width_options(min_channels, round_to)
        sizes = graph.flops.sizes

        # a channel of the group may stand for several channels of a layer, whose number is to be the multiple
        divisors = [round_to // gcd(round_to, _layer_channels_per_group_channel(g)) for g in graph.groups]
        divisor = torch.tensor(divisors, dtype=torch.long)

        # the smallest multiple that is not below what was asked for, or the whole group if that is fewer
        asked = [ceil(min_channels * n) if isinstance(min_channels, float) else min_channels for n in sizes.tolist()]
        least = torch.tensor([max(n, 1) for n in asked], dtype=torch.long)
        min_width = torch.minimum(-(-least // divisor) * divisor, sizes)

        return cls(sizes, min_width, divisor).following(graph)

    def following(self, graph: ChannelGraph) -> WidthConstraints:
        """Return the constraints with all channels kept that a graph holds open, and with its residual branches.

        Args:
            graph: of the same network.
        """
        held = torch.tensor([graph.is_held(group) for group in graph.groups], dtype=torch.bool)
        number = {group.name: i for i, group in enumerate(graph.groups)}
        blocks = tuple(torch.tensor([number[name] for name in branch.groups]) for branch in graph.blocks)
        return replace(self, min_width=torch.where(held, self.sizes, self.min_width), blocks=blocks)

    def round_down(self, open_counts: Tensor) -> Tensor:
        """Return the largest legal counts that are no larger than some counts, but at least the smallest legal ones.

        Args:
            open_counts: open channels per group, legal or not, shape (..., groups), int64.

        Returns:
            Legal open counts, shape (..., groups), int64.
        """
        down = torch.where(open_counts >= self.sizes, self.sizes, open_counts // self.divisor * self.divisor)
        legal = torch.maximum(down, self.min_width)
        for branch in self.blocks:
            removed = (down[..., branch] < self.min_width[branch]).any(-1, keepdim=True)
            legal[..., branch] = torch.where(removed, 0, legal[..., branch])
        return legal

    @property
    def smallest(self) -> Tensor:
        """The legal open counts of the smallest network, shape (groups,), int64."""
        return self.round_down(torch.zeros_like(self.sizes))

    def with_min_fraction(self, fraction: float) -> Tensor:
        """Return the smallest legal counts that leave every group a fraction of its channels.

        Groups in residual branches that may be removed as a whole have 0 nevertheless.

        Args:
            fraction: of the channels of every group, in [0, 1].

        Returns:
            Open counts, shape (groups,), int64.
        """
        least = (self.sizes * fraction).ceil().long()
        counts = torch.minimum(torch.maximum(self.smallest, -(-least // self.divisor) * self.divisor), self.sizes)
        for branch in self.blocks:
            counts[branch] = self.smallest[branch]
        return counts

    def next_width(self, open_counts: Tensor, group: int) -> Tensor:
        """Return legal counts with the next larger width in one group.

        Where the group lies in a removed residual branch, the whole branch comes back at its smallest width.

        Args:
            open_counts: legal open counts, shape (groups,), int64.
            group: index of a group that is not wholly open.

        Returns:
            Open counts, shape (groups,), int64.
        """
        wider = open_counts.clone()
        for branch in self.blocks:
            if group in branch.tolist() and not bool(open_counts[branch].all()):
                wider[branch] = self.min_width[branch]
                return wider
        next_multiple = int((open_counts[group] // self.divisor[group] + 1) * self.divisor[group])
        wider[group] = min(next_multiple, int(self.sizes[group]))
        return wider

    def step_costs(self, open_counts: Tensor, flops: FlopModel) -> np.ndarray:
        """Return the FLOPs that `next_width` adds in every group.

        For a group in a removed residual branch this is a lower bound, since the whole branch comes back.

        Args:
            open_counts: legal open counts, shape (groups,), int64.
            flops: the FLOPs as a function of open counts.

        Returns:
            FLOPs, shape (groups,), float64.
        """
        step = torch.minimum((open_counts // self.divisor + 1) * self.divisor, self.sizes) - open_counts
        step = torch.where(open_counts > 0, step, torch.minimum(self.divisor, self.sizes))
        return (step * (flops.marginal(open_counts) + torch.where(open_counts > 0, step * flops.curvature, 0))).numpy()

    def widths_after(self, open_counts: Tensor, steps: Tensor) -> Tensor:
        """Return the counts after several calls of `next_width` for every group, where no residual branch comes back.

        Args:
            open_counts: legal open counts, shape (groups,), int64.
            steps: number of steps for every group, shape (..., groups), int64; 0 for groups of removed branches.

        Returns:
            Open counts, shape (..., groups), int64.
        """
        wider = torch.minimum((open_counts // self.divisor + steps) * self.divisor, self.sizes)
        return torch.where(steps > 0, wider, open_counts)

    def levels(self, floor: Tensor, limit: Tensor) -> list[list[int]]:
        """Return the legal counts of every group, each in rising order.

        Args:
            floor: smallest counts, shape (groups,); where it is 0 and the residual branch of the group may be removed,
                0 is among the counts.
            limit: largest counts, shape (groups,).
        """
        found = []
        in_branches = {g for branch in self.blocks for g in branch.tolist()}
        constraints = zip(*(t.tolist() for t in (self.sizes, self.divisor, self.min_width)), strict=True)
        for g, (size, divisor, min_width) in enumerate(constraints):
            low, high = max(int(floor[g]), min_width), int(limit[g])
            counts = [n for n in range(low, high + 1) if n in (min_width, size) or n % divisor == 0]
            found.append([0, *counts] if g in in_branches and floor[g] == 0 else counts)
        return found

    def branches_consistent(self, counts: Tensor) -> Tensor:
        """Check for several vectors of counts that every residual branch is either removed as a whole or not at all.

        Args:
            counts: open channels per group, shape (vectors, groups).

        Returns:
            True for the vectors that leave no branch with only some of its groups empty, shape (vectors,).
        """
        consistent = torch.ones(len(counts), dtype=torch.bool)
        for branch in self.blocks:
            empty = counts[:, branch] == 0
            consistent &= empty.all(1) | ~empty.any(1)
        return consistent


def check_width_options(min_channels: float, round_to: int) -> None:
    """Check the options of a user that constrain widths.

    Args:
        min_channels: channels that every group keeps at least (int, 1 or more), or a fraction of each group (float in
            (0, 1]).
        round_to: layers get a multiple of so many channels; 1 or more.

    Raises:
        GDPError: one of them is out of its range or of another type.
    """
    whole = isinstance(min_channels, int) and not isinstance(min_channels, bool) and min_channels >= 1
    if not whole and not (isinstance(min_channels, float) and 0 < min_channels <= 1):
        raise GDPError(
            "Expected `min_channels` to be a number of channels (int, 1 or more) or a fraction of each group (float in "
            f"(0, 1]), but got {min_channels!r}."
        )
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise GDPError(f"Expected `round_to` to be an int of 1 or more, but got {round_to!r}.")


def _layer_channels_per_group_channel(group: ChannelGroup) -> int:
    """Return how many channels of a layer one channel of the group stands for.

    It is more than one where several can only be removed together, such as the members of a norm group.

    Args:
        group: a channel group.
    """
    made = [axis.index.shape[1] for axis in group.tensors if axis not in group.reads]
    return min(made, default=1)
