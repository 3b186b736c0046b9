"""Whether gates close without harm: validation accuracy after every epoch, beside that of the dense run.

python -m benchmarks.accuracy_smoothness --data data/cifar10
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import gdp
from benchmarks.accuracy import SIZES
from benchmarks.accuracy_data import Images, load
from benchmarks.accuracy_gates import GATES
from benchmarks.accuracy_networks import NETWORKS
from benchmarks.accuracy_training import Size, fit
from benchmarks.accuracy_ways import LR, Job, network


class Watch(pl.Callback):
    """Notes the validation accuracy after every epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(100 * float(trainer.callback_metrics["val/accuracy"]))


def watched(job: Job, data: dict[str, Images], size: Size) -> tuple[list[float], gdp.Report | None]:
    """Validation accuracy after every epoch of a run, and its report, if it prunes."""
    net, watch = network(job, size, None), Watch()
    torch.manual_seed(job.seed)
    pruning = [] if job.way == "dense" else [gdp.GDPCallback(job.target, **GATES[job.way])]
    fit(net, data, size, job.steps, LR[job.model], [watch, *pruning], validate=True)
    return watch.seen, pruning[0].report if pruning else None


def line(job: Job, seen: list[float], report: gdp.Report | None) -> str:
    """A line of the table."""
    drop = max((before - after for before, after in pairwise(seen)), default=0.0)
    cells = [job.model, job.way, f"{job.target:.0%}", str(job.seed), " ".join(f"{a:.1f}" for a in seen), f"{drop:.1f}"]
    if report is None:
        return "| " + " | ".join([*cells, "", ""]) + " |"
    # one look before the window ends, and at its end; the first bin holds the closed ones
    between = " / ".join(str(sum(values[1 : len(values) // 2])) for values in report.history.values[-2:])
    share, name = min((kept / total, name) for name, kept, total in report.groups)
    return "| " + " | ".join([*cells, between, f"{share:.0%} ({name})"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/ images")
    parser.add_argument("--size", choices=SIZES, default="smoke")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=["resnet20", "vgg16"])
    parser.add_argument("--ways", nargs="+", choices=["dense", *GATES], default=["dense", "gdp polar", "gdp annealed"])
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.15])
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 1], help="the first, and the one after the last")
    options: Any = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.size]
    data = load(options.data, size.side, size.images)
    steps = size.steps(size.epochs)
    print(
        "| network | gates | target | seed | validation accuracy per epoch | worst drop | gates in (0, 0.5) | least |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models:
        for way in options.ways:
            for target in [1.0] if way == "dense" else options.targets:
                for seed in range(*options.seeds):
                    job = Job(model, "scratch", "epochs", way, target, seed, size.epochs, steps)
                    print(line(job, *watched(job, data, size)), flush=True)


if __name__ == "__main__":
    main()
