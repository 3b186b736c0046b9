"""Train from a config: `python -m lightning_modules.train fit --config configs/digits_resnet20.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from pytorch_lightning.cli import LightningCLI

import gdp
from lightning_modules.classification import Classification


class PruningCLI(LightningCLI):
    """Run Lightning's CLI; after `fit` test the network, and if it was pruned, print the report and save it."""

    def after_fit(self) -> None:
        """Test, print and save, as `pruned.pt` in the folder of the logs."""
        self.trainer.test(self.model, datamodule=self.datamodule)
        for callback in self.trainer.callbacks:
            if isinstance(callback, gdp.GDPCallback) and callback.report is not None and self.trainer.is_global_zero:
                path = Path(self.trainer.log_dir or self.trainer.default_root_dir) / "pruned.pt"
                gdp.save_pruned(self.model.net, path)
                print(callback.report)
                print(f"saved: {os.path.relpath(path)}")


def main() -> None:
    """Run the command line."""
    torch.set_float32_matmul_precision("high")
    PruningCLI(Classification, subclass_mode_data=True, save_config_kwargs={"overwrite": True})


if __name__ == "__main__":
    main()
