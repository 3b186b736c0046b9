"""Compare dense and pruned on the digits: same network, epochs, data and seeds; test accuracy of the last epoch."""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import warnings

import pytorch_lightning as pl

import gdp
from benchmarks.common.markdown import header, row
from lightning_modules import Classification, DigitsData


def accuracy(seed: int, epochs: int, target: float | None) -> tuple[float, float]:
    """Return the test accuracy in percent, and the fraction of FLOPs that is left.

    Args:
        seed: of weights, batches and shifts.
        epochs: of training.
        target: fraction of the FLOPs that remains; None trains the dense network.
    """
    pl.seed_everything(seed, verbose=False)
    model, data = Classification(model="resnet20", channels=1), DigitsData()
    callbacks = [] if target is None else [gdp.GDPCallback(target_flops=target)]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, logger=False, accelerator="cpu", **quiet)
    trainer.fit(model, data)
    remaining = callbacks[0].report.remaining if callbacks else 1.0
    return 100 * trainer.test(model, data, verbose=False)[0]["test/accuracy"], remaining


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", type=float, nargs="*", default=[0.4, 0.2])
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(
        f"ResNet-20, digits, {options.epochs} epochs, seeds 0-{options.seeds - 1}, {platform.machine()} CPU, 1 thread\n"
    )
    print(header(["network", "FLOPs that remain", "test accuracy, mean", "per seed"]))
    for target in (None, *options.targets):
        runs = [accuracy(seed, options.epochs, target) for seed in range(options.seeds)]
        scores, remaining = [r[0] for r in runs], statistics.mean(r[1] for r in runs)
        name = "dense" if target is None else f"gdp, target {target}"
        per_seed = ", ".join(f"{score:.2f}" for score in scores)
        print(row([name, f"{remaining:.1%}", f"{statistics.mean(scores):.2f}", per_seed]), flush=True)


if __name__ == "__main__":
    main()
