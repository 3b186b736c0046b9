"""Compare all methods of gdp on the same images, epochs and optimizer; a row per run, a page and a picture.

make compare DATA=data/cifar10 ARGS="--model resnet20 --target 0.3 --seeds 3"

What was stopped goes on where it was: runs that have a row are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import gdp
from benchmarks.accuracy.data import decoded
from benchmarks.accuracy.jobs import Job, jobs, missing, rows_of, write_rows
from benchmarks.accuracy.networks import NETWORKS
from benchmarks.accuracy.training import SIZES
from benchmarks.compare.document import write
from benchmarks.compare.one import Task, measure
from benchmarks.compare.processes import FAILED, each_alone

REFERENCES = ("dense", "uniform")  # not pruned; all layers narrowed alike, trained from scratch
MEASURED = ("remains", "val", "test", "training_flops", "peak_mib", "before_mib", "seconds")
MEASURED += ("step_seconds", "dense_seconds", "step_ratio", "step_low", "step_high", "machine", FAILED)


def first_seeds(text: str) -> tuple[int, int]:
    """Return the first seed, and the one after the last.

    Args:
        text: how many.
    """
    return 0, int(text)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make compare", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/ images")
    parser.add_argument("--model", dest="models", nargs="+", choices=NETWORKS, default=["resnet20"])
    parser.add_argument("--target", dest="targets", nargs="+", type=float, default=[0.3], help="FLOPs that remain")
    parser.add_argument("--seeds", type=first_seeds, default=(0, 3), metavar="N", help="how many runs of each")
    parser.add_argument("--methods", dest="ways", nargs="+", help="default: all, and dense and uniform for reference")
    parser.add_argument("--size", choices=SIZES, default="smoke")
    parser.add_argument("--epochs", type=float, help="default: those of the size")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time, of one thread each")
    parser.add_argument("--again", action="store_true", help="run those again that have failed")
    parser.add_argument("--out", type=Path, default=Path("docs/methods.csv"), help="the page goes beside it")
    parser.add_argument("--cache", type=Path, default=Path("runs/compare"), help="folder of the log")
    parser.set_defaults(budget="epochs", start="scratch")
    options = parser.parse_args()
    known = [*REFERENCES, *gdp.methods.names()]
    options.ways = options.ways or known
    unknown = sorted(set(options.ways) - set(known))
    if unknown:
        parser.error(f"expected --methods among {', '.join(known)}, but got {', '.join(unknown)}")
    return options


def named(job: Job) -> str:
    """Return a job in a few words.

    Args:
        job: of the comparison.
    """
    return f"{job.model}, {job.way}, {job.target:.0%}, seed {job.seed}"


def outcome(found: dict[str, Any]) -> str:
    """Return what came of a run in a few words.

    Args:
        found: what was measured.
    """
    if FAILED in found:
        return f"failed: {found[FAILED]}"
    return f"{found['test']:.1f}% with {found['remains']:.1%} of the FLOPs, {found['seconds']:.0f} s"


def row_of(job: Job, size: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a run; what was not measured stays empty.

    Args:
        job: what was run.
        size: name of the size.
        found: what was measured.
    """
    measured = {name: found.get(name, "") for name in MEASURED}
    short = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in measured.items()}
    return {"size": size, **asdict(job), **short}


def run_missing(
    options: argparse.Namespace, work: Callable[[Task], dict[str, Any]] = measure, start: str = "spawn"
) -> None:
    """Run the jobs that have no row yet; each has its row as soon as it ends.

    Args:
        options: of the command line.
        work: runs a job, and returns what it measured.
        start: how its process begins, as `each_alone` takes it.
    """
    if options.again:
        write_rows(options.out, [row for row in rows_of(options.out) if not row[FAILED]])
    wanted = jobs(options, SIZES[options.size])
    todo = missing(wanted, options.out, options.size)
    if todo:
        decoded(options.data)  # here, once; the processes find the file
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (BarColumn(), MofNCompleteColumn(), *times, TextColumn("{task.description}"))
    with Progress(*columns, speed_estimate_period=1e6) as progress:
        bar = progress.add_task("", total=len(wanted), completed=len(wanted) - len(todo))

        def show(running: list[Task]) -> None:
            progress.update(bar, description="; ".join(named(job) for job, _ in running))

        tasks = [(job, options) for job in todo]
        log = options.cache / "log.txt"
        for (job, _), found in each_alone(work, tasks, options.workers, log, show, start):
            write_rows(options.out, [*rows_of(options.out), row_of(job, options.size, found)])
            progress.print(f"{named(job)}: {outcome(found)}", highlight=False, soft_wrap=True)
            progress.advance(bar)


def main() -> None:
    """Run what is missing, and write the page from all rows."""
    options = parse()
    try:
        run_missing(options)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.")
    print(write(options.out))


if __name__ == "__main__":
    main()
