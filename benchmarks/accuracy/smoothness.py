"""Show whether gates close without harm: validation accuracy after every epoch, beside that of the dense run.

python -m benchmarks.accuracy.smoothness --data data/cifar10
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import gdp
from benchmarks.accuracy.data import Images, load
from benchmarks.accuracy.gdp_methods import METHODS
from benchmarks.accuracy.jobs import Job
from benchmarks.accuracy.networks import NETWORKS
from benchmarks.accuracy.training import SIZES, Size, fit
from benchmarks.accuracy.ways import LR, network
from benchmarks.common.markdown import header, row

COLUMNS = ["network", "gates", "target", "seed", "validation accuracy per epoch", "worst drop"]
COLUMNS += ["gates in (0, 0.5)", "least"]


class ValidationAccuracy(pl.Callback):
    """Note the validation accuracy after every epoch, in percent."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.values.append(100 * float(trainer.callback_metrics["val/accuracy"]))


def validated(job: Job, data: dict[str, Images], size: Size) -> tuple[list[float], gdp.Report | None]:
    """Return the validation accuracy after every epoch of a run, and the report, if it prunes.

    Args:
        job: what is run.
        data: what `load` returns.
        size: of the comparison.
    """
    net, watch = network(job, size, None), ValidationAccuracy()
    torch.manual_seed(job.seed)
    pruning = [] if job.way == "dense" else [gdp.GDPCallback(job.target, **METHODS[job.way])]
    fit(net, data, size, job.steps, LR[job.model], [watch, *pruning], validate=True)
    return watch.values, pruning[0].report if pruning else None


def line(job: Job, accuracies: list[float], report: gdp.Report | None) -> str:
    """Return a line of the table.

    Args:
        job: what was run.
        accuracies: after every epoch, in percent.
        report: of the pruning; None for a dense run.
    """
    drop = max((before - after for before, after in pairwise(accuracies)), default=0.0)
    cells = [
        job.model,
        job.way,
        f"{job.target:.0%}",
        str(job.seed),
        " ".join(f"{a:.1f}" for a in accuracies),
        f"{drop:.1f}",
    ]
    if report is None:
        return row([*cells, "", ""])
    # the record before the window ends, and the one at its end; the first bin holds closed gates
    between = " / ".join(str(sum(values[1 : len(values) // 2])) for values in report.history.values[-2:])
    share, name = min((kept / total, name) for name, kept, total in report.groups)
    return row([*cells, between, f"{share:.0%} ({name})"])


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/ images")
    parser.add_argument("--size", choices=SIZES, default="smoke")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=["resnet20", "vgg16"])
    parser.add_argument(
        "--ways", nargs="+", choices=["dense", *METHODS], default=["dense", "gdp polar", "gdp annealed"]
    )
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.15])
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 1], help="the first, and the one after the last")
    options: Any = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.size]
    data = load(options.data, size.side, size.images)
    steps = size.steps(size.epochs)
    print(header(COLUMNS))
    for model in options.models:
        for way in options.ways:
            for target in [1.0] if way == "dense" else options.targets:
                for seed in range(*options.seeds):
                    job = Job(model, "scratch", "epochs", way, target, seed, size.epochs, steps)
                    print(line(job, *validated(job, data, size)), flush=True)


if __name__ == "__main__":
    main()
