"""Ask every method how important each channel of one trained network is, and write the ranks into a CSV file.

make bench BENCH=compare.similarity ARGS="--data data/cifar10"
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import gdp
from benchmarks.accuracy.data import Images, decoded, load
from benchmarks.accuracy.jobs import Job, rows_of, write_rows
from benchmarks.accuracy.networks import NETWORKS
from benchmarks.accuracy.training import SIZES, Size, fit
from benchmarks.accuracy.ways import network, suited, trained
from benchmarks.compare.document import write
from benchmarks.compare.one import Task
from benchmarks.compare.processes import FAILED, each_alone
from benchmarks.compare.ranks import ranks
from benchmarks.compare.similarity_document import NOISE, ranks_beside

TARGET_OF_LEARNERS = 0.5  # of methods whose gates learn: without a budget they have no reason to move


class Ask(pl.Callback):
    """Ask the method of a pruning for the importance of every channel, once.

    It stands before the callback of the pruning, which moves gates after that step.

    Args:
        pruning: what prunes.
        at: the optimizer step after which the method is asked.

    Attributes:
        importance: per FLOP, by which channels are kept, shape (channels of all groups,), float64.
        sizes: channels of every group.
    """

    def __init__(self, pruning: gdp.GDPCallback, at: int) -> None:
        self.pruning, self.at = pruning, at
        self.importance, self.sizes = torch.zeros(0), [0]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pruner = self.pruning.pruner
        if pruner is None or trainer.global_step != self.at:
            return
        self.sizes = [group.size for group in pruner.graph.groups]
        self.importance = per_flop(pruner)


@torch.no_grad()
def per_flop(pruner: gdp.Pruner) -> Tensor:
    """Return what decides which channels are kept: importance per FLOP.

    Args:
        pruner: whose method is asked.
    """
    context = pruner.context
    return pruner.method.importance(pruner.method_state, context).double().cpu() / context.marginal


def moment(method: gdp.PruningMethod, steps: int) -> tuple[float, int]:
    """Return the target of a run in which a method is asked, and the optimizer step after which that is.

    All FLOPs are allowed, so that no channel has to go, and the method is asked at the end. One whose gates learn is
    asked when channels would be chosen for the last time, on the way to TARGET_OF_LEARNERS.

    Args:
        method: that is asked.
        steps: of the run.
    """
    if method.learns_from is None:
        return 1.0, steps
    return TARGET_OF_LEARNERS, method.window(steps).last_selection


def asked(name: str, net: nn.Module, data: dict[str, Images], size: Size, steps: int) -> dict[str, str]:
    """Let a method see batches of a network, and return how it ranks the channels.

    The learning rate is 0, so that all methods judge the same weights. The window opens after half of the steps.

    Args:
        name: of the method, or NOISE.
        net: trained.
        data: what `load` returns.
        size: precision of the run.
        steps: how many batches there are.
    """
    method = gdp.methods.get("polar" if name == NOISE else name)(start=0.5, end=1.0)
    target, at = moment(method, steps)
    pruning = gdp.GDPCallback(target, method=method, shrink="end")
    ask = Ask(pruning, at)
    torch.manual_seed(1 if name == NOISE else 0)
    fit(net, data, size, steps, 0.0, [ask, pruning])
    shown = " ".join(f"{rank:g}" for rank in ranks(ask.importance.numpy()))
    return {"groups": " ".join(map(str, ask.sizes)), "ranks": shown}


def weights_of(job: Job, options: argparse.Namespace) -> Path:
    """Return the file with the weights of the trained network.

    Args:
        job: which trains it.
        options: of the command line.
    """
    return Path(options.cache / f"{job.model}-{options.size}-{job.epochs:g}.pt")


def ask_one(task: Task) -> dict[str, str]:
    """Train the network, or ask a method about it: the job's way says which.

    Args:
        task: the job, and the options of the command line.
    """
    job, options = task
    torch.set_num_threads(1)
    size, kept = SIZES[options.size], weights_of(job, options)
    data = load(options.data, size.side, size.images)
    if job.way == "dense":
        net, _ = trained(job, data, size, options.cache)
        torch.save(net.state_dict(), kept)
        return {"weights": str(kept)}
    return asked(job.way, network(job, size, kept), data, suited(size, job.model), options.steps)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare.similarity", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/ images")
    parser.add_argument("--model", choices=NETWORKS, default="resnet20")
    known = [*gdp.methods.names(), NOISE]
    parser.add_argument("--methods", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--size", choices=SIZES, default="smoke")
    parser.add_argument("--epochs", type=float, help="of the dense training; default: those of the size")
    parser.add_argument("--steps", type=int, default=200, help="batches that a method sees")
    parser.add_argument("--workers", type=int, default=1, help="methods that are asked at the same time")
    parser.add_argument("--again", action="store_true", help="ask those again that have failed")
    parser.add_argument("--out", type=Path, default=Path("docs/methods.csv"), help="of the comparison")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/compare"), help="folder of trained weights and the log"
    )
    return parser.parse_args()


def main() -> None:
    """Ask the methods that have no row yet, and write the page from all rows."""
    options = parse()
    options.cache.mkdir(parents=True, exist_ok=True)
    decoded(options.data)  # here, once; the processes find the file
    size, out, log = SIZES[options.size], ranks_beside(options.out), options.cache / "log.txt"
    epochs = float(options.epochs or size.epochs)
    dense = Job(options.model, "scratch", "epochs", "dense", 1.0, 0, epochs, size.steps(epochs))
    setting = {"model": options.model, "size": options.size, "epochs": str(epochs), "steps": str(options.steps)}

    # the network
    if not weights_of(dense, options).exists():
        for _, found in each_alone(ask_one, [(dense, options)], 1, log):
            print(found, flush=True)

    # the methods
    rows = [row for row in rows_of(out) if not (options.again and row[FAILED])]
    done = {row["method"] for row in rows if all(row[name] == value for name, value in setting.items())}
    tasks = [(replace(dense, way=name), options) for name in options.methods if name not in done]
    for (job, _), found in each_alone(ask_one, tasks, options.workers, log):
        answer = {name: found.get(name, "") for name in ("groups", "ranks", FAILED)}
        rows.append({**setting, "method": job.way, **answer})
        write_rows(out, rows)
        print(f"{job.way}: {found.get(FAILED, 'asked')}", flush=True)
    write(options.out)


if __name__ == "__main__":
    main()
