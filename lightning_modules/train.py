"""Train from a config: `python -m lightning_modules.train fit --config configs/digits_resnet20.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from pytorch_lightning.cli import LightningCLI

import gdp
from lightning_modules.classification import Classification


class PruningCLI(LightningCLI):
    """Lightning's CLI; after `fit` it tests the network, and if it was pruned, prints the report and saves it."""

    def after_fit(self) -> None:
        self.trainer.test(self.model, datamodule=self.datamodule)
        for callback in self.trainer.callbacks:
            if isinstance(callback, gdp.GDPCallback) and callback.report is not None and self.trainer.is_global_zero:
                path = Path(self.trainer.log_dir or self.trainer.default_root_dir) / "pruned.pt"
                gdp.save_pruned(self.model.net, path)
                print(callback.report)
                print(f"saved: {os.path.relpath(path)}")


def main() -> None:
    torch.set_float32_matmul_precision("high")
    PruningCLI(Classification, subclass_mode_data=True, save_config_kwargs={"overwrite": True})


if __name__ == "__main__":
    main()
