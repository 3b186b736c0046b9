"""The pictures of docs/latency.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from benchmarks.common.figures import figure_at
from benchmarks.latency.records import RUNTIMES, Record, names, timings, title, ways

COLORS = ("#9ecae1", "#4292c6", "#08519c", "#fd8d3c", "#a63603", "#74c476")
MARKERS = "osv^DP"
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
BAR = 0.8  # width of all bars of a model together, in distances between models


def bars(records: list[Record], path: Path) -> None:
    """Draw the speed-up of every network; a panel per runtime and batch size, a bar per way to cut.

    Args:
        records: of several networks.
        path: of the SVG file.
    """
    every, cuts = ways(records), names(records)
    models = list(dict.fromkeys(r["model"] for r in records))
    labels = ["\n".join(model.rsplit("_", 1)) for model in models]
    columns = len({batch for _, batch in every})
    options: Any = {"layout": None, "sharey": True, "style": STYLE}
    with figure_at(path, len(every), columns, (5.5, 2.6), **options) as (figure, panels):
        # a bar for every network, a black line where the ideal is
        wide = BAR / len(cuts)
        for panel, (runtime, batch) in zip(panels, every, strict=True):
            for record in (r for r in records if (r["runtime"], r["batch"]) == (runtime, batch)):
                for t in timings(record):
                    i = cuts.index(t.name)
                    left = models.index(record["model"]) - BAR / 2 + wide * i
                    panel.bar(left, t.speed_up, wide * 0.94, align="edge", color=COLORS[i % len(COLORS)])
                    panel.hlines(1 / t.remaining, left, left + wide * 0.94, colors="black", linewidth=1.5)
            panel.axhline(1, color="gray", linewidth=0.8, linestyle=":")
            panel.set_title(f"{RUNTIMES[runtime]}, batch {batch}", fontsize=10)
            panel.set(xticks=range(len(models)), xticklabels=labels, xlim=(-0.6, len(models) - 0.4), ylabel="speed-up")

        # one legend above all panels
        marks: list[Any] = [Rectangle((0, 0), 1, 1, color=COLORS[i % len(COLORS)]) for i in range(len(cuts))]
        marks.append(Line2D([], [], color="black"))
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.32 / figure.get_figheight()))
        legend = [*cuts, "ideal: dense FLOPs / FLOPs"]
        figure.legend(marks, legend, loc="upper center", ncols=len(legend), frameon=False)


def curves(records: list[Record], path: Path) -> None:
    """Draw time against FLOPs, both relative to the dense network; a panel for every record.

    Args:
        records: of a network at several targets.
        path: of the SVG file.
    """
    with figure_at(path, len(records), len(records), (5.5, 4.5), layout=None, style=STYLE) as (figure, panels):
        for panel, record in zip(panels, records, strict=True):
            for i, name in enumerate(names([record])):
                points = [(t.remaining, 1 / t.speed_up) for t in timings(record) if t.name == name]
                look = {"marker": MARKERS[i % len(MARKERS)], "markersize": 5, "color": COLORS[i % len(COLORS)]}
                panel.plot(*zip(*sorted([*points, (1.0, 1.0)]), strict=True), label=name, **look)
            panel.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":", label="time = FLOPs")
            panel.set(xlabel="FLOPs that remain", ylabel="time that remains", xlim=(0, 1.02), ylim=(0, None))
            panel.set_title(title(record), fontsize=10)
            panel.legend(frameon=False)
        figure.tight_layout()
