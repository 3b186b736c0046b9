"""Pictures as SVG files that are the same bytes whenever the same figures are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure


@contextmanager
def figure_at(
    path: Path,
    panels: int,
    columns: int,
    panel_size: tuple[float, float],
    layout: str | None = "constrained",
    sharey: bool = False,
    style: dict[str, Any] | None = None,
) -> Iterator[tuple[Figure, np.ndarray]]:
    """Provide a figure and its panels, shape (panels,); the figure is saved when the context ends without an error.

    Args:
        path: of the SVG file; its folder is made.
        panels: how many.
        columns: in which they stand, line by line.
        panel_size: width and height of one panel in inches.
        layout: as matplotlib's `Figure` takes it.
        sharey: let all panels have the same y axis.
        style: matplotlib's rcParams that hold for this figure.
    """
    lines = -(-panels // columns)
    with matplotlib.rc_context({"svg.hashsalt": "gdp", **(style or {})}):
        figure = Figure(figsize=(panel_size[0] * columns, panel_size[1] * lines), layout=layout)
        every = figure.subplots(lines, columns, squeeze=False, sharey=sharey).flatten()
        yield figure, every[:panels]
        for left_over in every[panels:]:
            left_over.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
