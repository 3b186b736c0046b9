"""Draw a pruning: distribution of gate values, FLOPs against what is allowed, lambda, and channels per group."""

from __future__ import annotations

from typing import Any

import torch

from gdp.errors import GDPError
from gdp.report.history import History
from gdp.utils import AnyPath

ROW = 0.16  # height of the row of a group, in inches
MANY = 120  # groups that get a name and a row of that height; all are drawn


def plot(history: History, groups: tuple[tuple[str, int, int], ...], target: float, path: AnyPath) -> None:
    """Draw a history into a file.

    Args:
        history: with at least one step.
        groups: name, kept and total channels of every group.
        target: the fraction of the dense FLOPs (or time) that remains at the end, in (0, 1].
        path: of the picture; its ending says which format: png, svg, pdf.

    Raises:
        GDPError: matplotlib is not installed, or the file can't be written.
    """
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GDPError("Drawing needs matplotlib, which is not installed: pip install gdp[plot].") from error

    # the figure: three diagrams over the optimizer steps above, one row per group below
    figure = Figure(figsize=(11, 7 + ROW * min(len(groups), MANY)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[6, 1.5 + ROW * min(len(groups), MANY)])
    top, bottom = parts
    gates, flops, multiplier = top.subplots(3, 1, sharex=True, height_ratios=[2, 1.4, 1])

    # distribution of gate values: one column per step, as wide as the time to the next one
    steps = history.steps
    edges = [*steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1]
    counts = torch.tensor(history.values).T
    levels = torch.linspace(0, 1, len(counts) + 1).tolist()
    shown = gates.pcolormesh(edges, levels, counts.clamp_min(0.5).tolist(), norm=LogNorm(0.5), cmap="magma_r")
    top.colorbar(shown, ax=gates, label="gates")
    gates.set(ylabel="gate value", title="distribution of the gates' values")

    # FLOPs
    flops.plot(steps, history.allowed, "--", color="0.4", label="allowed")
    flops.plot(steps, history.flops, label="open channels")
    flops.axhline(target, color="tab:red", linewidth=0.8, label=f"at the end: {target:.3f}")
    flops.set(ylabel="FLOPs (or time) / dense", ylim=(0, 1.05))
    flops.legend()

    # lambda
    multiplier.plot(steps, history.lagrange_multiplier, color="tab:green")
    multiplier.set(ylabel="lambda", xlabel="optimizer step")

    _draw_groups(bottom, history, groups, edges)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise GDPError(f"The picture could not be written to {path}: {error}") from error


def _draw_groups(figure: Any, history: History, groups: tuple[tuple[str, int, int], ...], edges: list[int]) -> None:
    """Draw the fraction of open channels of every group over the optimizer steps, one row per group.

    Args:
        figure: of matplotlib, without axes.
        history: with at least one step.
        groups: name, kept and total channels of every group.
        edges: the step at which the column of every entry begins, and the end of the last one, (entries + 1) of them.
    """
    totals = torch.tensor([total for _, _, total in groups])
    fraction = (torch.tensor(history.open_counts) / totals).T  # shape (groups, entries)
    axes = figure.subplots()
    shown = axes.pcolormesh(edges, list(range(len(groups) + 1)), fraction.tolist(), vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(shown, ax=axes, label="open channels / all")
    axes.set(xlabel="optimizer step", title="what is left of every group (kept / total)")
    axes.invert_yaxis()
    named = groups[:MANY]
    labels = [f"{name}  {kept} / {total}" for name, kept, total in named]
    axes.set_yticks([i + 0.5 for i in range(len(named))], labels=labels, fontsize=7)
