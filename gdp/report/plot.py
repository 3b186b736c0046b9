"""The picture of a pruning: gates parting, FLOPs following what is allowed, lambda, and what is left of every group."""

from __future__ import annotations

from typing import Any

import torch

from gdp.errors import GDPError
from gdp.report.history import History
from gdp.utils import AnyPath

ROW, MANY = 0.16, 120  # inches per group; of more groups only the first are named


def plot(history: History, groups: tuple[tuple[str, int, int], ...], target: float, path: AnyPath) -> None:
    """Draw a history into a file; the ending of its name says which kind.

    Args:
        history: what happened.
        groups: name, kept and total channels of every group.
        target: the fraction of the dense FLOPs that remains.
        path: of the picture.

    Raises:
        GDPError: matplotlib is not installed, or the file can't be written.
    """
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GDPError("Drawing needs matplotlib, which is not installed: pip install gdp[plot].") from error
    figure = Figure(figsize=(11, 7 + ROW * min(len(groups), MANY)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[6, 1.5 + ROW * min(len(groups), MANY)])
    top, bottom = parts
    gates, flops, price = top.subplots(3, 1, sharex=True, height_ratios=[2, 1.4, 1])
    steps = history.steps
    edges = [*steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1]
    counts = torch.tensor(history.values).T
    levels = torch.linspace(0, 1, len(counts) + 1).tolist()
    shown = gates.pcolormesh(edges, levels, counts.clamp_min(0.5).tolist(), norm=LogNorm(0.5), cmap="magma_r")
    top.colorbar(shown, ax=gates, label="gates")
    gates.set(ylabel="gate value", title="distribution of the gates' values")
    flops.plot(steps, history.allowed, "--", color="0.4", label="allowed")
    flops.plot(steps, history.flops, label="open channels")
    flops.axhline(target, color="tab:red", linewidth=0.8, label=f"at the end: {target:.3f}")
    flops.set(ylabel="FLOPs (or time) / dense", ylim=(0, 1.05))
    flops.legend()
    price.plot(steps, history.lagrange_multiplier, color="tab:green")
    price.set(ylabel="lambda", xlabel="optimizer step")
    _draw_groups(bottom, history, groups, edges)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise GDPError(f"The picture could not be written to {path}: {error}") from error


def _draw_groups(figure: Any, history: History, groups: tuple[tuple[str, int, int], ...], edges: list[int]) -> None:
    totals = torch.tensor([total for _, _, total in groups])
    share = (torch.tensor(history.open_counts) / totals).T
    axes = figure.subplots()
    shown = axes.pcolormesh(edges, list(range(len(groups) + 1)), share.tolist(), vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(shown, ax=axes, label="open channels / all")
    axes.set(xlabel="optimizer step", title="what is left of every group (kept / total)")
    axes.invert_yaxis()
    named = groups[:MANY]
    labels = [f"{name}  {kept} / {total}" for name, kept, total in named]
    axes.set_yticks([i + 0.5 for i in range(len(named))], labels=labels, fontsize=7)
