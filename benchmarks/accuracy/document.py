"""Write the rows of `benchmarks.accuracy` as tables and a picture, in Markdown.

python -m benchmarks.accuracy.document docs/accuracy.csv docs/results.md --picture docs/accuracy.svg
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.training import SIZES
from benchmarks.common.figures import figure_at
from benchmarks.common.markdown import between, table

Row = dict[str, Any]
OURS = "gdp polar"
LEADERS = {"epochs": (OURS,), "flops": (OURS, "gdp polar, at once")}
ORDER_OF_METHODS = ("dense", "uniform", "gdp polar", "gdp", "TP", "OTO", "")  # by how their names begin
SETTING = ("size", "model", "start", "epochs")
PART = "accuracy"  # of the document
BUDGETS = {"epochs": "equal epochs ({} in total)", "flops": "equal training FLOPs (of gdp polar in {} epochs)"}
ORDER_OF_MODELS = ("resnet20", "vgg16", "resnet56", "mobilenetv2")
STARTS = {"scratch": "from scratch", "trained": "from trained weights"}


def read(path: Path) -> list[Row]:
    """Return all rows; the reference of equal FLOPs is the same run as at equal epochs, and stands for both.

    Args:
        path: of the CSV file.
    """
    with path.open() as file:
        rows: list[Row] = [
            {**r, **{k: float(r[k]) for k in ("target", "remains", "test", "val", "training_flops", "epochs")}}
            for r in csv.DictReader(file)
        ]
    for r in rows:
        r["steps_dense"] = SIZES[r["size"]].steps(r["epochs"])
    budgets = {tuple(r[k] for k in SETTING) for r in rows if r["budget"] == "flops"}
    same = [{**r, "budget": "flops"} for r in rows if r["way"] == OURS and r["budget"] == "epochs"]
    every = rows + [r for r in same if tuple(r[k] for k in SETTING) in budgets]
    return sorted(every, key=lambda r: next(i for i, name in enumerate(ORDER_OF_METHODS) if r["way"].startswith(name)))


def mean_of(rows: Iterable[Row]) -> str:
    """Return mean, standard deviation and number of the seeds' test accuracies.

    Args:
        rows: of one method at one target.
    """
    found = [r["test"] for r in rows]
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread} ({len(found)})"


def comparison(rows: list[Row]) -> str:
    """Return a table: one line per method, one column per target, and in the last lines gdp's lead over the others.

    Args:
        rows: that are compared among themselves.
    """
    targets = sorted({r["target"] for r in rows if r["way"] != "dense"}, reverse=True)
    cells: dict[str, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        cells[r["way"]][r["target"]].append(r)

    # the methods
    lines = []
    for way, found in cells.items():
        cost = [r["training_flops"] / float(r["steps_dense"]) for target in found for r in found[target]]
        shown = [mean_of(found[t]) if t in found else "" for t in targets]
        if way == "dense":
            shown = [mean_of(found[1.0])] * len(targets)
        lines.append([way, *shown, f"{min(cost):.2f} to {max(cost):.2f}"])

    # the leads
    others = [way for way in cells if not way.startswith("gdp") and way != "dense"]
    for ours in (way for way in LEADERS[rows[0]["budget"]] if way in cells):
        lines.append(_lead(cells, targets, ours, "the best rival", others))
        pruners = [way for way in others if way != "uniform"]
        if pruners and pruners != others:
            lines.append(_lead(cells, targets, ours, "the best pruner", pruners))
    return table(["method", *(f"{t:.0%} of FLOPs" for t in targets), "training FLOPs"], lines)


def _lead(
    cells: dict[str, dict[float, list[Row]]], targets: list[float], leader: str, whom: str, others: list[str]
) -> list[str]:
    """Return the line that says by how much gdp leads."""
    leads = []
    for t in targets:
        rivals = [statistics.mean(r["test"] for r in cells[way][t]) for way in others if cells[way][t]]
        ours = [r["test"] for r in cells[leader][t]]
        leads.append(f"{statistics.mean(ours) - max(rivals):+.1f}" if rivals and ours else "")
    return [f"*{leader} over {whom}*", *leads, ""]


def compared(rows: list[Row]) -> dict[str, list[Row]]:
    """Return what is compared among itself, by its title.

    Args:
        rows: all of them.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    for r in sorted(rows, key=lambda r: (ORDER_OF_MODELS.index(r["model"]), r["start"], r["epochs"], r["budget"])):
        cost = BUDGETS[r["budget"]].format(f"{r['epochs']:g}")
        found[f"{r['model']}, {STARTS[r['start']]}, {cost} (size: {r['size']})"].append(r)
    return found


def sections(rows: list[Row]) -> str:
    """Return a heading and a table for everything that is compared among itself.

    Args:
        rows: all of them.
    """
    return "\n".join(f"### {title}\n\n{comparison(group)}" for title, group in compared(rows).items())


def draw(rows: list[Row], path: Path) -> None:
    """Draw accuracy over the FLOPs that remain, one panel per model and budget.

    Args:
        rows: all of them.
        path: of the SVG file.
    """
    panels = compared(rows)
    ways = list(dict.fromkeys(r["way"] for r in rows))
    with figure_at(path, len(panels), min(2, len(panels)), (6, 4.2)) as (_, every):
        for axes, (title, group) in zip(every, panels.items(), strict=True):
            for way in dict.fromkeys(r["way"] for r in group):
                _draw_method(axes, way, ways.index(way), [r for r in group if r["way"] == way])
            axes.set(
                xlabel="FLOPs that remain",
                ylabel="test accuracy (%)",
                title=title.replace(", equal", "\nequal"),
            )
            axes.grid(alpha=0.3)
        every[0].legend(fontsize=7)


def _draw_method(axes: Any, way: str, number: int, rows: list[Row]) -> None:
    """Draw means and standard deviations of a method, at every target."""
    points: dict[float, list[Row]] = defaultdict(list)
    for r in rows:
        points[r["target"]].append(r)
    x = [statistics.mean(r["remains"] for r in points[t]) for t in sorted(points)]
    y = [statistics.mean(r["test"] for r in points[t]) for t in sorted(points)]
    error = [statistics.pstdev(r["test"] for r in points[t]) for t in sorted(points)]
    style: dict[str, Any] = {"linewidth": 2.5} if way.startswith("gdp") else {"linewidth": 1, "linestyle": "--"}
    style["color"] = "black" if way == "dense" else f"C{number - 1}"
    axes.errorbar(x, y, error, marker="os^vDPX*<>"[number % 10], markersize=4, capsize=2, label=way, **style)


def main() -> None:
    """Replace the tables in the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("document", type=Path, help=f"its part <!-- {PART} --> is replaced")
    parser.add_argument("--picture", type=Path, help="drawn, if given")
    options = parser.parse_args()
    rows = read(options.rows)
    if options.picture is not None:
        draw(rows, options.picture)
    options.document.write_text(between(options.document.read_text(), PART, sections(rows)))


if __name__ == "__main__":
    main()
