"""Do the main job on data that comes with scikit-learn: train, prune to 40 %, report, save, load again, compare."""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

import gdp
from lightning_modules import Classification, DigitsData


def main() -> None:
    """Print the report, the accuracy, and how far the loaded network differs from the one that was saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--target-flops", type=float, default=0.4, help="fraction of the dense FLOPs that remains")
    parser.add_argument("--method", choices=["polar", "annealed"], default="polar")
    parser.add_argument("--plot", type=Path, help="where to draw what the gates did, e.g. gates.png")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # hints about workers and tree specs

    # train and prune
    pl.seed_everything(0)
    model, data = Classification(model="resnet20", channels=1), DigitsData()
    pruning = gdp.GDPCallback(target_flops=options.target_flops, method=options.method)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=options.epochs, callbacks=[pruning], **quiet)
    trainer.fit(model, data)
    print(pruning.report)
    if options.plot is not None:
        pruning.report.plot(options.plot)
    accuracy = trainer.test(model, data, verbose=False)[0]["test/accuracy"]

    # save, load again, compare
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pt"
        gdp.save_pruned(model.net, path)
        again = gdp.load_pruned(Classification(model="resnet20", channels=1).net, path)
        size = path.stat().st_size
    images = torch.cat([x for x, _ in data.test_dataloader()])
    with torch.no_grad():
        difference = (again.eval()(images) - model.net.eval()(images)).abs().max().item()
    print(f"test accuracy of the pruned network: {accuracy:.2%}")
    print(f"saved ({size / 1024:.0f} KiB) and loaded again: {len(images)} test images, largest difference {difference}")


if __name__ == "__main__":
    main()
