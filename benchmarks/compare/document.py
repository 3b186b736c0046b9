"""Write the page of the comparison: tables and pictures, from the rows of `benchmarks.compare`.

python -m benchmarks.compare.document docs/methods.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.jobs import rows_of
from benchmarks.accuracy.training import SIZES
from benchmarks.common.markdown import between, table
from benchmarks.compare.pictures import draw_accuracies
from benchmarks.compare.processes import FAILED
from benchmarks.compare.similarity_document import similarity
from benchmarks.compare.summary import Row, Summary, ranking, settings, summarized, targets

TITLE = "# All methods, compared\n"
COLUMNS = ["method", "test accuracy", "against polar", "FLOPs that remain", "training FLOPs"]
COLUMNS += ["step against dense", "peak MiB"]
WHAT = """Every method has one run of `GDPCallback(target, method="name")` with its defaults, nothing else, on the same
images, for as many epochs, with the same optimizer, learning rate and augmentation; docs/results.md describes them.
**uniform** is a network that is narrowed alike in all layers and trained from scratch, **dense** one that is not
pruned. These are short runs: they compare methods with each other, not with published accuracies, and papers train,
prune and fine-tune in other set-ups than this one.

- **test accuracy**: on the 10 000 test images after the last step, never the best one: mean, standard deviation over
  seeds, and in brackets the number of runs. Methods whose means lie closer than their deviations are not told apart.
- **against polar**: by how many points the runs are more accurate than those of the default with the same seeds.
- **training FLOPs**: of all training steps, in those of dense training. Closed channels count until they are cut;
  batches that a method learns on count as others do, passes without gradients do not.
- **step against dense**: seconds of a training step while gates close, on the uncut network, with the window open from
  the first step on, so that all that a method does is in it: see *What a step costs*.
- **peak MiB**: the most memory that the process of the run holds while it trains, what pruning needs before the first
  step and for the removal included; in brackets by how much that is more than it holds when it begins, with Python,
  torch and the images. Medians.
"""
STEPS = """Two trainings, dense and with the method, take turns step by step in one process and one thread. A step
lasts from the moment its batch is there until the next one is, so that batches which a method observes or learns on
are in it. The ratio is that of sums over blocks of 20 steps, of CPU time where the CPU computes: median over 6 blocks
after one that warms up, and in brackets the quartiles (where several targets were measured, the outermost). Other load
on the machine meets both alike; dense against dense shows what is left of it. What gates cost does not grow with the
images, so it weighs less where steps take longer: see docs/step_overhead.md. *Against polar* divides two such ratios.
"""


def command(rows: Sequence[Row], setting: tuple[str, ...]) -> str:
    """Return the command that makes the rows of one network.

    Args:
        rows: of this setting.
        setting: network, size and epochs.
    """
    model, size, epochs = setting
    options = [f"--model {model}", f"--target {' '.join(targets(rows))}"]
    options += [f"--seeds {1 + max(int(row['seed']) for row in rows)}"]
    options += [f"--size {size}"] * (size != "smoke")
    options += [f"--epochs {float(epochs):g}"] * (float(epochs) != SIZES[size].epochs)
    return f'    make compare DATA=data/cifar10 ARGS="{" ".join(options)}"\n'


def line(summary: Summary) -> list[str]:
    """Return the line of a method in the table of one target.

    Args:
        summary: of its runs.
    """
    if not summary.tests:
        return [f"`{summary.way}`", summary.accuracy, *[""] * 5]
    step = "" if summary.step is None else f"{summary.step:.2f}"
    ahead = "" if summary.ahead is None else f"{summary.ahead:+.1f}"
    memory = f"{summary.peak_mib:.0f} (+{summary.risen_mib:.0f})"
    cost = [f"{summary.remains:.1%}", f"{summary.training:.2f}", step, memory]
    name = summary.way if summary.way in ("dense", "uniform") else f"`{summary.way}`"
    return [name, summary.accuracy, ahead, *cost]


def comparison(rows: list[Row]) -> str:
    """Return the tables of all networks and targets, and what has failed.

    Args:
        rows: of the CSV file.
    """
    parts = []
    for setting, found in settings(rows).items():
        model, size, epochs = setting
        seen = SIZES[size]
        parts.append(f"## {model}, {seen.side}x{seen.side}, {seen.images} images, {float(epochs):g} epochs\n")
        parts.append(command(found, setting))
        for target in targets(found):
            parts.append(f"### {model}, {float(target):.0%} of the FLOPs\n")
            parts.append(table(COLUMNS, [line(summary) for summary in ranking(found, target)]))
        failures = [row for row in found if row[FAILED]]
        reasons = [f"- `{r['way']}`, target {r['target']}, seed {r['seed']}: {r[FAILED]}" for r in failures]
        parts += ["Runs that failed:\n", "\n".join(reasons) + "\n"] if reasons else []
    return "\n".join(parts)


def step_costs(rows: list[Row]) -> str:
    """Return the table of what a step costs: a line per method, two columns per network.

    Args:
        rows: of the CSV file.
    """
    measured = [row for row in rows if row["step_ratio"]]
    found = settings(measured)
    names: list[str] = []
    for model, *_ in found:
        names += [f"{model}, against dense", "against polar"]
    lines = []
    for way in dict.fromkeys(row["way"] for row in measured):
        cells = []
        for runs in found.values():
            cells += _step_cells([row for row in runs if row["way"] == way], [r for r in runs if r["way"] == "polar"])
        lines.append([f"`{way}`", *cells])
    return table(["method", *names], lines)


def _step_cells(rows: list[Row], polar: list[Row]) -> list[str]:
    """Return the two cells of a method: against dense, with quartiles, and against polar."""
    mine, reference = summarized("", rows).step, summarized("", polar).step
    if mine is None:
        return ["", ""]
    low, high = min(float(row["step_low"]) for row in rows), max(float(row["step_high"]) for row in rows)
    against = "" if reference is None else f"{mine / reference:.2f}"
    return [f"{mine:.3f} ({low:.2f} to {high:.2f})", against]


def machines(rows: list[Row]) -> str:
    """Return what the rows were measured on, in a sentence.

    Args:
        rows: of the CSV file.
    """
    return f"{'; '.join(dict.fromkeys(row['machine'] for row in rows if row['machine']))}; one thread per run.\n"


def write(out: Path) -> str:
    """Write the page and its pictures beside a CSV file, and return the tables.

    Args:
        out: the CSV file. In a page that is there already, text outside of the generated parts stays, and so does a
            part that there are no rows for.
    """
    page, rows, alike = out.with_suffix(".md"), rows_of(out), similarity(out)
    text, tables = page.read_text() if page.exists() else TITLE, ""
    if rows:
        draw_accuracies(rows, out.with_suffix(".svg"))
        tables = comparison(rows)
        picture = f"![Test accuracy of every method]({out.stem}.svg)\n"
        steps = ["## What a step costs\n", STEPS, step_costs(rows)]
        text = between(text, "comparison", "\n".join([WHAT, machines(rows), picture, tables, *steps]))
    if alike:
        text = between(text, "similarity", alike)
    if rows or alike:
        page.write_text(text)
    return tables


def main() -> None:
    """Write the page anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare.document", description=__doc__)
    parser.add_argument("rows", type=Path)
    print(write(parser.parse_args().rows))


if __name__ == "__main__":
    main()
