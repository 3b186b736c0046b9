"""Which network is better at equal cost: gdp's, a thin one, Torch-Pruning's. One row per run, in a CSV file.

make bench BENCH=accuracy ARGS="--data data/cifar10"
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy_data import load
from benchmarks.accuracy_gates import GATES, VARIANTS
from benchmarks.accuracy_networks import NETWORKS
from benchmarks.accuracy_peers import PEERS
from benchmarks.accuracy_training import Size
from benchmarks.accuracy_ways import KEY, Job, baseline, run

SIZES = {
    "smoke": Size(16, 20000, 6, 0.25, "bf16-mixed"),
    "cpu": Size(32, 45000, 30, 1.0, "bf16-mixed"),
    "gpu": Size(32, 45000, 120, 1.0, "bf16-mixed"),
}
REFERENCE = "gdp polar"  # whose training FLOPs the others get, if FLOPs are to be equal
PLACE = ("model", "start", "budget", "target", "epochs")
WAYS = ("dense", "uniform", *GATES, *PEERS)


def jobs(options: argparse.Namespace, size: Size) -> list[Job]:
    """All runs that are asked for; those that share a first phase stand together."""
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
                        found.append(replace(job, steps=affordable(job, known)))
    return found


def affordable(job: Job, known: list[dict[str, str]]) -> int:
    """How many steps of a method take as many FLOPs as the reference's run with as many epochs as all methods have.

    Both were measured at equal epochs, in runs whose rows are known.
    """
    place = (job.model, job.start, "epochs", str(job.target), str(job.epochs))
    spent = {}
    for way in (REFERENCE, job.way):
        rows = [r for r in known if (*(r[k] for k in PLACE), r["way"]) == (*place, way)]
        if not rows:
            raise SystemExit(
                f"Run {way} at equal epochs first ({job.model}, target {job.target}, {job.epochs} epochs)."
            )
        spent[way] = statistics.mean(float(r["training_flops"]) for r in rows)
    return round(job.steps * spent[REFERENCE] / spent[job.way])


def work(task: tuple[list[Job], argparse.Namespace]) -> list[dict[str, Any]]:
    """Run jobs one after the other, in a process of its own."""
    todo, options = task
    torch.set_num_threads(1)
    size = SIZES[options.size]
    data = load(options.data, size.side, size.images)
    rows = []
    for job in todo:
        began = time.perf_counter()
        row = {"size": options.size, **asdict(job), **run(job, data, size, options.cache, options.weights)}
        row["seconds"] = time.perf_counter() - began
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        rows.append(row)
    return rows


def rows_of(path: Path) -> list[dict[str, str]]:
    """What was measured before."""
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def missing(todo: Iterable[Job], out: Path, size: str) -> list[Job]:
    """Jobs that the file has no row of."""
    done = {(r["size"], *(r[name] for name in KEY)) for r in rows_of(out)}
    return [job for job in todo if (size, *(str(getattr(job, name)) for name in KEY)) not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/ images")
    parser.add_argument("--size", choices=SIZES, default="smoke")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=["resnet20", "vgg16"])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *VARIANTS], default=list(WAYS))
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.3, 0.15])
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 5], help="the first, and the one after the last")
    parser.add_argument("--budget", choices=["epochs", "flops"], default="epochs", help="what all methods have alike")
    parser.add_argument("--start", choices=["scratch", "trained"], default="scratch")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=float, help="default: that of the size")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy.csv"))
    parser.add_argument("--cache", type=Path, default=Path("runs/accuracy"))
    options = parser.parse_args()
    if (options.start == "trained") != (options.weights is not None) or (options.weights and len(options.models) > 1):
        parser.error("--start trained goes with --weights, a state dict of the one model in --models")
    options.cache.mkdir(parents=True, exist_ok=True)
    todo = missing(jobs(options, SIZES[options.size]), options.out, options.size)
    if options.weights is not None and todo:
        size = SIZES[options.size]
        data = load(options.data, size.side, size.images)
        options.weights = baseline(replace(todo[0], seed=0), data, size, options.weights, options.cache)
    groups = [list(group) for _, group in groupby(todo, key=lambda job: (job.model, job.seed, job.way))]
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers, maxtasksperchild=8) as pool:
        for rows in pool.imap_unordered(work, [(group, options) for group in groups]):
            fresh = not options.out.exists()
            with options.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                if fresh:
                    writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
