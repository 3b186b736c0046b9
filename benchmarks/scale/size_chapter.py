"""The chapter of docs/scale.md on the size of the network: tables, fits and the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.figures import figure_at
from benchmarks.common.markdown import table
from benchmarks.scale.costs import PATIENCE, RUNNING, STARTUP, TARGET, Costs, budgets

AXES = {"channels": "channels, 100 convs", "convs": "convs, 40 channels inside each block"}
STYLE = {"svg.fonttype": "none", "font.size": 10, "axes.grid": True}
LINES = {
    "dry run": "dry run (every group cut on trial)",
    "trace": "trace (torch.export included)",
    "torch.export": "torch.export alone",
    "budget": "budget step, slowest case",
    "watch": "watch",
    "step": "step without a choice",
    "gates": "inserting gates",
}


def exponent(size: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of log time against log size.

    Args:
        size: of every network.
        seconds: that each took.
    """
    return float(np.polyfit(np.log(size), np.log(seconds), 1)[0])


def family(found: list[Costs], axis: str) -> list[Costs]:
    """Return the chains that differ in nothing but this, smallest first.

    Args:
        found: costs of all networks.
        axis: one of AXES.
    """
    same = {"channels": ("convs", 100), "convs": ("inner", 40)}[axis]
    stream = max(c.stream for c in found)
    chains = [c for c in found if c.stream == stream and getattr(c, same[0]) == same[1]]
    return sorted(chains, key=lambda c: getattr(c, axis))


def exponents(found: list[Costs], figures: Sequence[str]) -> str:
    """Return a table of how every figure grows with channels and with convs.

    Args:
        found: costs of all networks.
        figures: names of what was measured.
    """
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
    """Draw seconds against channels and against convs, both logarithmic; ResNet-50 as hollow diamonds.

    Args:
        found: of all networks.
        path: of the SVG file.
    """
    resnet = next(c for c in found if not c.stream)
    with figure_at(path, 2, 2, (5.5, 5.2), sharey=True, style=STYLE) as (figure, panels):
        # a line for every figure, and a diamond
        for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
            points = family(found, axis)
            for i, (what, words) in enumerate(LINES.items()):
                sizes, color = [getattr(c, axis) for c in points], f"C{i}"
                panel.plot(sizes, [c.median[what] for c in points], "o-", color=color, markersize=4, label=words)
                panel.plot(getattr(resnet, axis), resnet.median[what], "D", color=color, fillstyle="none", markersize=7)
            panel.set(xscale="log", yscale="log", xlabel=label, title=f"against {axis}")
            panel.grid(which="major", color="0.88")
            panel.spines[["top", "right"]].set_visible(False)

        # whole decades, and one legend below both panels
        lowest = min(c.median[what] for c in found for what in LINES)
        panels[0].set_ylim(bottom=10 ** math.floor(math.log10(lowest)))
        panels[0].set_ylabel("seconds, median")
        panels[0].plot([], [], "D", color="0.4", fillstyle="none", markersize=7, label="ResNet-50, 224x224")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def goals(found: list[Costs]) -> str:
    """Return a table of the goals, one line each, with what was measured."""
    resnet, widest = found[0], max(found, key=lambda c: c.channels)
    rows = [
        ("start-up for ResNet-50, first in its process", resnet.startup(), 5.0),
        ("budget step for ResNet-50", resnet.median["budget"], 0.002),
    ]
    if widest.channels > 190_000:  # the goal is for 200 000
        rows.append((f"budget step for {widest.channels:,} channels", widest.median["budget"], 0.020))
    return table(
        ["goal", "measured", "below", ""],
        [[what, f"{s:.4g} s", f"{goal:g} s", "met" if s < goal else "**missed**"] for what, s, goal in rows],
    )


def chapter(found: list[Costs], svg: Path) -> str:
    """Return the chapter, and draw its picture.

    Args:
        found: costs of all networks.
        svg: file of the picture.
    """
    picture(found, svg)
    names = {"channel": "importance", "flop": "importance per FLOP"}
    ms = [f"{names[drawn_for]}, {allowed}" for drawn_for, allowed in budgets()]

    # one line per network
    costs = [
        [c.name, c.convs, c.groups, c.channels, c.weights, *(f"{c.median[k]:.3g}" for k in (*STARTUP, *RUNNING))]
        for c in found
    ]
    steps = [
        [c.name, c.channels, *(f"{1e3 * c.median[f'budget {k} {a}']:.2f}" for k, a in budgets())]
        + [f"{kept:.4f}" for kept in c.kept.values()]
        for c in found
    ]
    return f"""## Against the size of the network

{goals(found)}
Start-up is trace, dry run and gates, each the first call in its process. A budget step is one call of
`Pruner._select`: channels chosen for the target ({TARGET}) and then for what is allowed now. `budget` is the slowest of
the six in the third table.

![seconds against channels and convs]({svg.name})

Medians, in seconds. Chains are residual blocks of two 1x1 convs on a stream of {max(c.stream for c in found)} channels,
on 4x4 images; "convs x channels inside a block". `trace` holds an export of its own. `step` is `Pruner.step` without a
choice: gates move and are written beside the weights. `watch` is `Pruner.watch`, which reads every weight and its
gradient. What has taken {PATIENCE:g} s in all is not repeated further.

{table(["network", "convs", "groups", "channels", "weights", *STARTUP, *RUNNING], costs)}
How they grow: exponents of the fit of log time on log size (1.00: ten times the size, ten times the time), and from the
last point but one to the last, where constant parts matter least.

{exponents(found, (*STARTUP, *RUNNING))}
The budget step in milliseconds, by what is allowed. Importance is lognormal, per channel or per FLOP; the second is
the harder one, as expensive and cheap channels take turns. "Stream of 16": single channels cost more than the 1 % that
may be left unused, so that some are exchanged for others. The last columns say which fraction of the FLOPs a choice for
the target of {TARGET} keeps.

{table(["network", "channels", *ms, "kept, importance", "kept, importance per FLOP"], steps)}"""
