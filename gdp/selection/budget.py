"""The budget: how many FLOPs are allowed now, and what can be asked for at all."""

from __future__ import annotations

import math

from gdp.errors import GDPError
from gdp.graph import ChannelGraph
from gdp.selection.constraints import WidthConstraints


def lowest_flops(graph: ChannelGraph, widths: WidthConstraints | None = None) -> int:
    """FLOPs of the smallest network: one channel left in every group, if nothing else is asked for."""
    return graph.flops.count((widths or WidthConstraints.of(graph)).smallest)


def check_target(target: float) -> None:
    """Refuse what is no fraction.

    Raises:
        GDPError: the target does not lie in (0, 1].
    """
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target <= 1:
        percent = isinstance(target, int | float) and 1 < target <= 100
        hint = f"; for {target:g} % write {target / 100:g}" if percent else ""
        raise GDPError(f"Expected `target_flops`, the fraction of FLOPs that remains, in (0, 1], got {target!r}{hint}.")


def check_reachable(graph: ChannelGraph, target: float, widths: WidthConstraints | None = None) -> None:
    """Refuse what can't be reached in this network.

    Raises:
        GDPError: nothing can be pruned, or frozen layers cost more than the target.
    """
    if not graph.groups:
        raise GDPError(
            "No channel of this network can be pruned. What was found, and why it has to stay:\n"
            + (graph.reasons() or "  there is no conv or linear layer")
        )
    least = lowest_flops(graph, widths) / graph.flops.dense
    if target < least:
        raise GDPError(
            f"target_flops={target} is out of reach: {least:.4f} of the FLOPs remains in the smallest network that "
            f"gdp may make. The lowest target for this network is {math.ceil(least * 1e4) / 1e4:.4f}. Left alone:\n"
            + graph.reasons()
        )


def allowed_fraction(progress: float, target: float) -> float:
    """Fraction of the dense FLOPs allowed at `progress` in [0, 1] of the window: cubic from 1 down to the target.

    The cubic schedule is that of Zhu and Gupta, arXiv 1710.01878, equation 1.

    >>> [round(allowance(p, 0.4), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.475, 0.4]
    """
    left = 1 - min(max(progress, 0.0), 1.0)
    return target + (1 - target) * left**3
