"""Compute how many FLOPs are allowed at a step, and check that a target can be reached."""

from __future__ import annotations

import math

from gdp.errors import GDPError
from gdp.graph import ChannelGraph
from gdp.selection.constraints import WidthConstraints


def lowest_flops(graph: ChannelGraph, widths: WidthConstraints | None = None) -> int:
    """Return the FLOPs of the smallest network that gdp may make.

    Args:
        graph: of the network.
        widths: the legal open counts; default: at least one channel in every group.
    """
    return graph.flops.count((widths or WidthConstraints.of(graph)).smallest)


def check_target(target: float) -> None:
    """Check that a target is a fraction.

    Args:
        target: fraction of the dense FLOPs that remains.

    Raises:
        GDPError: the target does not lie in (0, 1].
    """
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target <= 1:
        percent = isinstance(target, int | float) and 1 < target <= 100
        hint = f"; for {target:g} % write {target / 100:g}" if percent else ""
        raise GDPError(f"Expected `target_flops`, the fraction of FLOPs that remains, in (0, 1], got {target!r}{hint}.")


def check_reachable(graph: ChannelGraph, target: float, widths: WidthConstraints | None = None) -> None:
    """Check that a network can be pruned down to a target.

    Args:
        graph: of the network.
        target: fraction of the dense FLOPs that remains, in (0, 1].
        widths: the legal open counts; default: at least one channel in every group.

    Raises:
        GDPError: nothing can be pruned, or the smallest network costs more than the target.
    """
    if not graph.groups:
        raise GDPError(
            "No channel of this network can be pruned. What was found, and why it has to stay:\n"
            + (graph.reasons() or "  there is no conv or linear layer")
        )
    lowest = lowest_flops(graph, widths) / graph.flops.dense
    if target < lowest:
        raise GDPError(
            f"target_flops={target} is out of reach: {lowest:.4f} of the FLOPs remains in the smallest network that "
            f"gdp may make. The lowest target for this network is {math.ceil(lowest * 1e4) / 1e4:.4f}. Left alone:\n"
            + graph.reasons()
        )


def allowed_fraction(progress: float, target: float) -> float:
    """Return the fraction of the dense FLOPs that is allowed, which falls along a cubic curve from 1 to the target.

    The cubic schedule is that of Zhu and Gupta, arXiv 1710.01878, equation 1.

    Args:
        progress: the part of the window that has passed; below 0 and above 1 it counts as 0 and 1.
        target: fraction of the dense FLOPs that remains in the end, in (0, 1].

    >>> [round(allowed_fraction(p, 0.4), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.475, 0.4]
    """
    remaining_window = 1 - min(max(progress, 0.0), 1.0)
    return target + (1 - target) * remaining_window**3
