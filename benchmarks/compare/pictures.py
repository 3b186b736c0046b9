"""Pictures of the page: accuracies of all methods, and a heat map of how alike they rank channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.figures import figure_at
from benchmarks.compare.summary import Row, Summary, ranking, settings, targets

PER_METHOD = 0.22  # inches
MARGIN = 1.3  # inches above and below


def draw_accuracies(rows: Sequence[Row], path: Path) -> None:
    """Draw the test accuracy of every method, one panel per network, one colour per target.

    Args:
        rows: of the CSV file.
        path: of the SVG file.
    """
    panels = settings(rows)
    most = max(len({row["way"] for row in found}) for found in panels.values())
    with figure_at(path, len(panels), min(2, len(panels)), (5.5, MARGIN + PER_METHOD * most)) as (_, every):
        for axes, ((model, size, epochs), found) in zip(every, panels.items(), strict=True):
            _draw_panel(axes, found)
            axes.set(xlabel="test accuracy (%)", title=f"{model} ({size}, {float(epochs):g} epochs)")


def _draw_panel(axes: Any, rows: list[Row]) -> None:
    """Draw the methods of one network: dots are means, bars standard deviations, the line is dense training."""
    every = {target: ranking(rows, target) for target in targets(rows)}
    places: dict[str, int] = {}
    for found in reversed(every.values()):  # ordered as at the smallest target
        for summary in found:
            if summary.way != "dense":
                places.setdefault(summary.way, len(places))
    for number, (target, found) in enumerate(every.items()):
        shown = [s for s in found if s.tests and s.way != "dense"]
        _dots(axes, shown, [places[s.way] for s in shown], f"{float(target):.0%} of the FLOPs", number)
    dense = [s for found in every.values() for s in found if s.way == "dense" and s.tests][:1]
    for summary in dense or [s for s in ranking(rows, "") if s.tests]:
        axes.axvline(summary.mean, color="black", linewidth=1, label="dense")
        axes.axvspan(summary.mean - summary.spread, summary.mean + summary.spread, color="black", alpha=0.12)
    axes.set_yticks(list(places.values()), list(places), fontsize=8)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3, frameon=False)  # above the title


def _dots(axes: Any, summaries: list[Summary], places: list[int], label: str, number: int) -> None:
    """Draw one target of one network."""
    x, error = [s.mean for s in summaries], [s.spread for s in summaries]
    axes.errorbar(x, places, xerr=error, fmt="osv^D"[number % 5], markersize=4, capsize=2, label=label)


def draw_matrix(above: np.ndarray, below: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw two matrices of rank correlations as one heat map, one above and one below the diagonal.

    Args:
        above: shape (methods, methods), from -1 to 1; nan where there is no correlation.
        below: of the same shape.
        names: of the methods.
        path: of the SVG file.
    """
    matrix = np.where(np.triu(np.ones_like(above), 1) > 0, above, below)
    np.fill_diagonal(matrix, np.nan)
    side = 2.5 + 0.3 * len(names)
    with figure_at(path, 1, 1, (side, 0.88 * side)) as (figure, (axes,)):
        shown = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title("above the diagonal: over all channels\nbelow: within groups (median)", fontsize=9)
        for i, j in np.argwhere(np.isfinite(matrix)):
            color = "white" if abs(matrix[i, j]) > 0.6 else "black"
            axes.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=5, color=color)
        figure.colorbar(shown, ax=axes, shrink=0.6, label="Spearman's rank correlation")
