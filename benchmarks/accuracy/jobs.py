"""The runs of the comparison: which are asked for, and which of them have a row already."""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.accuracy.training import Size

REFERENCE = "gdp polar"  # whose training FLOPs the others get, if FLOPs are to be equal
SAME_SETTING = ("model", "start", "budget", "target", "epochs")  # columns that are equal in runs which are compared


@dataclass(frozen=True)
class Job:
    """One run of one method.

    Attributes:
        model: which of NETWORKS.
        start: "scratch", or "trained" for the weights that the dense baseline was trained to.
        budget: "epochs" or "flops", what is the same for all methods.
        way: the method.
        target: fraction of the dense FLOPs that remains.
        seed: of weights and batches.
        epochs: that all methods have at equal epochs.
        steps: of all phases together.
    """

    model: str
    start: str
    budget: str
    way: str
    target: float
    seed: int
    epochs: float
    steps: int


# what a run is known by; its steps at equal FLOPs follow from what others have spent
KEY = tuple(field.name for field in fields(Job) if field.name != "steps")


def jobs(options: argparse.Namespace, size: Size) -> list[Job]:
    """Return all runs that are asked for; those that share a first phase stand together.

    Args:
        options: of the command line.
        size: of the comparison.
    """
    epochs = float(options.epochs or size.epochs)
    steps = size.steps(epochs)
    known = [row for row in rows_of(options.out) if row["size"] == options.size]
    found = []
    for seed in range(*options.seeds):
        for model in options.models:
            for way in options.ways:
                for target in (1.0,) if way == "dense" else options.targets:
                    job = Job(model, options.start, options.budget, way, target, seed, epochs, steps)
                    if options.budget == "epochs":
                        found.append(job)
                    elif way not in ("dense", REFERENCE):
                        found.append(replace(job, steps=affordable_steps(job, known)))
    return found


def affordable_steps(job: Job, known: list[dict[str, str]]) -> int:
    """Return in how many steps a method spends the FLOPs of the reference's run with the epochs that all methods have.

    Both were measured at equal epochs, in runs whose rows are known.

    Args:
        job: of the method; its steps are those of equal epochs.
        known: rows of the CSV file.

    Raises:
        SystemExit: one of the two has no row.
    """
    setting = (job.model, job.start, "epochs", str(job.target), str(job.epochs))
    spent = {}
    for way in (REFERENCE, job.way):
        rows = [r for r in known if (*(r[k] for k in SAME_SETTING), r["way"]) == (*setting, way)]
        if not rows:
            raise SystemExit(
                f"Run {way} at equal epochs first ({job.model}, target {job.target}, {job.epochs} epochs)."
            )
        spent[way] = statistics.mean(float(r["training_flops"]) for r in rows)
    return round(job.steps * spent[REFERENCE] / spent[job.way])


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return what was measured before.

    Args:
        path: of the CSV file, which need not exist.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file at once: whoever is killed meanwhile leaves the rows that were there before.

    Args:
        path: of the CSV file; its folder is made. Without rows there is no file.
        rows: all of them; the first one's names are those of the columns, then come those that later ones add.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def missing(wanted: Iterable[Job], out: Path, size: str) -> list[Job]:
    """Return the jobs that the file has no row of.

    Args:
        wanted: jobs.
        out: the CSV file.
        size: name of the size, as in its rows.
    """
    done = {(r["size"], *(r[name] for name in KEY)) for r in rows_of(out)}
    return [job for job in wanted if (size, *(str(getattr(job, name)) for name in KEY)) not in done]
