"""Train all methods of the comparison, in processes of their own; one row per run, in a CSV file.

make bench BENCH=accuracy ARGS="--data data/cifar10"
"""

from __future__ import annotations

import argparse
import multiprocessing
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from benchmarks.accuracy.data import load
from benchmarks.accuracy.gdp_methods import METHODS, VARIANTS
from benchmarks.accuracy.jobs import jobs, missing, rows_of, write_rows
from benchmarks.accuracy.networks import NETWORKS
from benchmarks.accuracy.peers import PEERS
from benchmarks.accuracy.training import SIZES
from benchmarks.accuracy.ways import baseline
from benchmarks.accuracy.worker import work

WAYS = ("dense", "uniform", *METHODS, *PEERS)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
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
    return options


def main() -> None:
    """Run the jobs that have no row yet, and append their rows."""
    options = parse()
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
            write_rows(options.out, [*rows_of(options.out), *rows])


if __name__ == "__main__":
    main()
