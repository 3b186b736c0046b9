"""Measure what layers of gdp.layers save and cost: sizes, training from scratch, and a start from trained weights."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision
from torch import nn

import gdp
from benchmarks.common.machine import cpu_model, versions
from benchmarks.common.markdown import between, table
from gdp.layers import Swaps, fold, linearize, prune_stripes, stripe
from gdp.utils import count_flops, count_parameters
from lightning_modules import Classification, DigitsData
from lightning_modules.resnet_cifar import resnet20, resnet56

DIGIT = torch.zeros(1, 1, 8, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (resnet20, 32),
    "resnet56": (resnet56, 32),
    "resnet50": (torchvision.models.resnet50, 224),
    "vgg16_bn": (torchvision.models.vgg16_bn, 224),
}
# name of a row: how convs are swapped, the options of LayersCallback, and gdp's target
Training = tuple[Callable[[nn.Module], Swaps] | None, dict[str, Any], float | None]
TRAININGS: dict[str, Training] = {
    "dense": (None, {}, None),
    "dense, gdp to 0.5": (None, {}, 0.5),
    "linear convs": (linearize, {}, None),
    "linear convs, no correlation loss": (linearize, {"correlation": 0.0}, None),
    "linear convs, a quarter primary": (lambda net: linearize(net, 0.25), {}, None),
    "linear convs, gdp to 0.4 of theirs": (linearize, {}, 0.4),
    "stripes": (stripe, {}, None),
    "stripes, L1 of 8e-3": (stripe, {"sparsity": 8e-3}, None),
    "stripes, L1 of 1e-2": (stripe, {"sparsity": 1e-2}, None),
    "stripes, L1 of 8e-3, gdp to 0.5": (stripe, {"sparsity": 8e-3}, 0.5),
}


def sizes() -> list[list[Any]]:
    """Return how many parameters and FLOPs networks have, as they are and with linear convs."""
    rows: list[list[Any]] = []
    for name, (make, size) in NETWORKS.items():
        net, x = make(), torch.zeros(1, 3, size, size)
        dense = count_parameters(net), count_flops(net, x)
        done = linearize(net)
        small = count_parameters(net), count_flops(net, x)
        shares = [f"{after / before:.1%}" for before, after in zip(dense, small, strict=True)]
        rows.append(
            [name, len(done.swapped), len(done.left), dense[0], small[0], shares[0], dense[1], small[1], shares[1]]
        )
    return rows


def fit(model: Classification, epochs: int, callbacks: list[Any]) -> float:
    """Train a network on the digits, and return its test accuracy in percent.

    Args:
        model: around the network.
        epochs: of training.
        callbacks: of the Trainer.
    """
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, logger=False, accelerator="cpu", **quiet)
    trainer.fit(model, DigitsData())
    return accuracy(model)


def accuracy(model: Classification) -> float:
    """Return the test accuracy in percent."""
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    return 100 * trainer.test(model, DigitsData(), verbose=False)[0]["test/accuracy"]


def trained(training: Training, seed: int, epochs: int) -> tuple[float, int, int, int]:
    """Train a ResNet-20 with some layers from scratch.

    Args:
        training: a row of the table.
        seed: of weights, batches and shifts.
        epochs: of training.

    Returns:
        Test accuracy in percent, parameters, FLOPs, and FLOPs when all layers are folded to plain convs.
    """
    swap, options, target = training
    pl.seed_everything(seed, verbose=False)
    model = Classification(model="resnet20", channels=1)
    callbacks: list[Any] = [] if target is None else [gdp.GDPCallback(target)]
    if swap is not None:
        swap(model.net)
        callbacks.append(gdp.LayersCallback(**options))
    fit(model, epochs, callbacks)
    if swap is stripe:
        prune_stripes(model.net)
    found = accuracy(model), count_parameters(model.net), count_flops(model.net, DIGIT)
    if gdp.layers.layers_in(model.net):
        fold(model.net)
    return *found, count_flops(model.net, DIGIT)


def started(ratio: float, seed: int, epochs: int, more: int) -> list[float]:
    """Linearize a trained ResNet-20, and return how far it is from what it was.

    Args:
        ratio: fraction of the filters that are primary.
        seed: of weights, batches and shifts.
        epochs: of the training before.
        more: epochs of training after, with a fifth of the learning rate.

    Returns:
        In percent: accuracy before; mean difference of the filters; difference of the outputs, relative to their norm;
        accuracy right after the swap, with statistics of the norms taken anew, and after training.
    """
    pl.seed_everything(seed, verbose=False)
    model, data = Classification(model="resnet20", channels=1), DigitsData()
    before = fit(model, epochs, [])
    data.setup("fit")
    images = torch.cat([x for x, _ in data.test_dataloader()])
    with torch.no_grad():
        expected = model.net.eval()(images)
        filters = statistics.mean(swap.difference for swap in linearize(model.net, ratio).swapped)
        outputs = float((model.net.eval()(images) - expected).norm() / expected.norm())
    after = accuracy(model)
    norms = [m for m in model.net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for x, _ in data.train_dataloader():
            model.net.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    calibrated = accuracy(model)
    model.hparams["lr"] /= 5
    return [before, 100 * filters, 100 * outputs, after, calibrated, fit(model, more, [gdp.LayersCallback()])]


def mean(values: list[float]) -> str:
    """Return the mean, and from where to where the values go."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def chapter(options: argparse.Namespace) -> str:
    """Measure everything, and return the tables.

    Args:
        options: of the command line.
    """
    where = f"{cpu_model()} CPU, {os.cpu_count()} cores, 1 thread, {versions('torch', 'pytorch-lightning', 'fvcore')}"
    names = ["network", "convs swapped", "left alone", "parameters", "after", "", "FLOPs", "after", ""]
    size_table = table(names, sizes())

    rows = []
    for name, training in TRAININGS.items():
        runs = [trained(training, seed, options.epochs) for seed in range(options.seeds)]
        counts = [round(statistics.mean(run[i] for run in runs)) for i in (1, 2, 3)]
        rows.append([name, mean([run[0] for run in runs]), *counts])
        print(rows[-1], flush=True)
    train_table = table(["training", "test accuracy", "parameters", "FLOPs", "FLOPs when folded"], rows)

    rows = []
    for ratio in (0.5, 0.75):
        starts = [started(ratio, seed, options.epochs, options.more) for seed in range(options.seeds)]
        rows.append([f"{ratio}", *(mean(list(column)) for column in zip(*starts, strict=True))])
        print(rows[-1], flush=True)
    names = ["ratio", "accuracy before", "filters differ by %", "outputs differ by %", "accuracy right after"]
    start_table = table([*names, "norms anew", f"{options.more} more epochs"], rows)
    return f"""{where}; mean over seeds 0 to {options.seeds - 1}, and from where to where they go.

**Sizes**, half of the filters primary, not folded (folded, networks have the FLOPs that they had):

{size_table}
**From scratch**: ResNet-20 on the digits of scikit-learn (8x8 pixels, 540 test images), {options.epochs} epochs;
stripes at 0 are removed after training:

{train_table}
**From trained weights**: the same network, trained dense, linearized, and trained for {options.more} more epochs with a
fifth of the learning rate:

{start_table}"""


def main() -> None:
    """Write the tables into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--more", type=int, default=5, help="epochs after a start from trained weights")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, default=Path("docs/layers.md"))
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    text = options.write.read_text() if options.write.exists() else ""
    found = chapter(options)
    options.write.write_text(between(text, "figures", found))


if __name__ == "__main__":
    main()
