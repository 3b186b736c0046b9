"""The chapter on the size of the network, of benchmarks/scale.py: tables, fits and the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

if TYPE_CHECKING:
    from benchmarks.scale import Costs

AXES = {"units": "channel units, 100 convs", "convs": "convs, 40 channels inside each block"}
TARGET, ALLOWED = 0.4, (0.9, 0.6, 0.4)
STARTUP = ("torch.export", "trace", "preflight", "gates")  # trace holds an export of its own
RUNNING = ("budget", "step", "watch")
LINES = {
    "preflight": "preflight (trial cut)",
    "trace": "trace (torch.export included)",
    "torch.export": "torch.export alone",
    "budget": "budget step, slowest case",
    "watch": "watch",
    "step": "step without a choice",
    "gates": "inserting gates",
}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; whole numbers get thousands separators."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    lines = [list(head), ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def budgets() -> list[tuple[str, float]]:
    """Kinds of worth and allowances for which the budget step is measured."""
    return [(kind, allowed) for kind in ("channel", "flop") for allowed in ALLOWED]


def exponent(size: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log time against log size."""
    return float(np.polyfit(np.log(size), np.log(seconds), 1)[0])


def family(found: list[Costs], axis: str) -> list[Costs]:
    """The chains that differ in nothing but this, smallest first."""
    same = {"units": ("convs", 100), "convs": ("inner", 40)}[axis]
    stream = max(c.stream for c in found)
    chains = [c for c in found if c.stream == stream and getattr(c, same[0]) == same[1]]
    return sorted(chains, key=lambda c: getattr(c, axis))


def exponents(found: list[Costs], figures: Sequence[str]) -> str:
    """How every figure grows with units and with convs."""
    head, columns = ["figure"], []
    for axis, label in AXES.items():
        points = family(found, axis)
        if len(points) < 2:
            continue
        sizes = [getattr(c, axis) for c in points]
        head += [f"{label}: {sizes[0]:,} to {sizes[-1]:,}", f"{sizes[-2]:,} to {sizes[-1]:,}"]
        for some in (slice(None), slice(-2, None)):
            columns.append([f"{exponent(sizes[some], [c.median[k] for c in points][some]):.2f}" for k in figures])
    return table(head, list(zip(figures, *columns, strict=True)))


def picture(found: list[Costs], path: Path) -> None:
    """Seconds against units and against convs, both logarithmic; ResNet-50 as hollow diamonds."""
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gdp", "font.size": 10, "axes.grid": True})
    figure, panels = plt.subplots(1, 2, figsize=(11, 5.2), sharey=True, layout="constrained")
    resnet = next(c for c in found if not c.stream)
    for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
        points = family(found, axis)
        for i, (what, words) in enumerate(LINES.items()):
            sizes = [getattr(c, axis) for c in points]
            panel.plot(sizes, [c.median[what] for c in points], "o-", color=f"C{i}", markersize=4, label=words)
            panel.plot(getattr(resnet, axis), resnet.median[what], "D", color=f"C{i}", fillstyle="none", markersize=7)
        panel.set(xscale="log", yscale="log", xlabel=label, title=f"against {axis}")
        panel.grid(which="major", color="0.88")
        panel.spines[["top", "right"]].set_visible(False)
    lowest = min(c.median[what] for c in found for what in LINES)
    panels[0].set_ylim(bottom=10 ** math.floor(math.log10(lowest)))
    panels[0].set_ylabel("seconds, median")
    panels[0].plot([], [], "D", color="0.4", fillstyle="none", markersize=7, label="ResNet-50, 224x224")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def goals(found: list[Costs]) -> str:
    """The goals, one line each, with what was measured."""
    resnet, widest = found[0], max(found, key=lambda c: c.units)
    rows = [
        ("start-up for ResNet-50, first in its process", resnet.startup(), 5.0),
        ("budget step for ResNet-50", resnet.median["budget"], 0.002),
    ]
    if widest.units > 190_000:  # the goal is for 200 000
        rows.append((f"budget step for {widest.units:,} units", widest.median["budget"], 0.020))
    return table(
        ["goal", "measured", "below", ""],
        [[what, f"{s:.4g} s", f"{goal:g} s", "met" if s < goal else "**missed**"] for what, s, goal in rows],
    )


def chapter(found: list[Costs], patience: float, svg: Path) -> str:
    """The chapter on the size of the network."""
    picture(found, svg)
    ms = [f"{'worth per FLOP' if kind == 'flop' else 'worth'}, {allowed}" for kind, allowed in budgets()]
    costs = [
        [c.name, c.convs, c.groups, c.units, c.weights, *(f"{c.median[k]:.3g}" for k in (*STARTUP, *RUNNING))]
        for c in found
    ]
    steps = [
        [c.name, c.units, *(f"{1e3 * c.median[f'budget {k} {a}']:.2f}" for k, a in budgets())]
        + [f"{left:.4f}" for left in c.left.values()]
        for c in found
    ]
    return f"""## Against the size of the network

{goals(found)}

Start-up is trace, preflight and gates, each the first call in its process. A budget step is one call of
`Pruner._select`: channels chosen for the target ({TARGET}) and then for what is allowed now. `budget` is the slowest of
the six in the third table.

![seconds against units and convs]({svg.name})

Medians, in seconds. Chains are residual blocks of two 1x1 convs on a stream of {max(c.stream for c in found)} channels,
on 4x4 images; "convs x channels inside a block". `trace` holds an export of its own. `step` is `Pruner.step` without a
choice: gates move and are written beside the weights. `watch` is `Pruner.watch`, which reads every weight and its
gradient. What has taken {patience:g} s in all is not repeated further.

{table(["network", "convs", "groups", "units", "weights", *STARTUP, *RUNNING], costs)}

How they grow: exponents of the fit of log time on log size (1.00: ten times the size, ten times the time), and from the
last point but one to the last, where constant parts matter least.

{exponents(found, (*STARTUP, *RUNNING))}

The budget step in milliseconds, by what is allowed. Worth is lognormal, per channel or per FLOP; the second is the
harder one, as dear and cheap channels take turns. "Stream of 16": single channels cost more than the 1 % that may be
left unused, so that some are exchanged for others. The last columns say which fraction of the FLOPs a choice for the
target of {TARGET} keeps.

{table(["network", "units", *ms, "kept, worth", "kept, worth per FLOP"], steps)}
"""
