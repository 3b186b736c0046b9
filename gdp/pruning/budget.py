"""Budget: what a network may cost in the end, and which channels it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from gdp.graph import ChannelGraph, FlopModel
from gdp.methods import StepContext
from gdp.selection import (
    Selection,
    WidthConstraints,
    allowed_fraction,
    check_reachable,
    check_target,
    select_for_schedule,
)


@dataclass(frozen=True)
class Budget:
    """Say what a network may cost on its way to a target.

    Attributes:
        graph: what `gdp.trace` found in the network.
        target: fraction of the dense FLOPs (or time) that remains.
        constraints: which numbers of channels are allowed.
        cost: what is counted: the FLOPs of the graph, or a time.

    Raises:
        GDPError: the target is no fraction or out of reach, or nothing can be pruned.
    """

    graph: ChannelGraph
    target: float
    constraints: WidthConstraints
    cost: FlopModel

    def __post_init__(self) -> None:
        check_target(self.target)
        check_reachable(replace(self.graph, flops=self.cost), self.target, self.constraints)

    def holding_open(self, reasons: Mapping[str, str]) -> Budget:
        """Return the budget of the network with all channels of some groups held open.

        Args:
            reasons: name of a group -> why it stays, in words; other names are ignored.

        Raises:
            GDPError: the target is out of reach then.
        """
        graph = self.graph.hold_open(reasons)
        timed = replace(graph, flops=self.cost).with_blocks(graph.blocks).flops
        cost = graph.flops if self.cost is self.graph.flops else timed
        return Budget(graph, self.target, self.constraints.following(graph), cost)

    def allowed(self, progress: float) -> float:
        """Return the fraction of the dense FLOPs (or time) that is allowed.

        Args:
            progress: the part of the window that has passed.
        """
        return allowed_fraction(progress, self.target)

    def remaining(self, open_counts: Tensor) -> float:
        """Return the fraction of the dense FLOPs (or time) that some channels cost.

        Args:
            open_counts: channels per group, shape (groups,).
        """
        return self.cost.count(open_counts) / self.cost.dense

    def choose(self, importance: Tensor, context: StepContext, fraction: float) -> Selection:
        """Choose the channels that fit into a fraction of the FLOPs now, so that the target can be met exactly later.

        Args:
            importance: of every channel, shape (channels of all groups,), on the CPU.
            context: where the run is.
            fraction: of the dense FLOPs (or time).

        Returns:
            The channels, and the Lagrange multiplier in units of the average: a channel stays if its share of all
            importance is more than the multiplier times its share of all FLOPs.
        """
        may_stay, limits = context.may_stay, (self.cost, self.constraints, self.target, fraction)
        chosen = select_for_schedule(importance, context.group_of, may_stay, *limits)
        total = max(float(importance[may_stay].sum()), 1e-30)
        return replace(chosen, lagrange_multiplier=chosen.lagrange_multiplier * self.cost.dense / total)
