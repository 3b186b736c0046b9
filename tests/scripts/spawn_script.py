"""Run by test_strategies.py: Lightning spawns two processes, and what comes back is cut in the main process."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.training import trainer
from scripts.strategies_script import Last, Plain, share

import gdp


class Data(pl.LightningDataModule):
    """Asked for its loader in every process."""

    def train_dataloader(self):
        return share(2)

    def val_dataloader(self):
        return []


class Writes(Last):
    """Writes the gates of every process to a file."""

    def on_train_end(self, run, pl_module):
        super().on_train_end()
        Path(run.default_root_dir, f"raw{run.global_rank}.json").write_text(json.dumps(self.raw))


def fit(strategy: str, folder: Path) -> dict:
    """Train in two other processes, and cut what comes back."""
    pl.seed_everything(0)
    lit, pruning = Plain(), gdp.GDPCallback(0.5)
    run = trainer(
        pruning, Writes(pruning), epochs=6, strategy=strategy, devices=2, precision="64-true",
        default_root_dir=folder, use_distributed_sampler=False,
    )  # fmt: skip
    run.fit(lit, datamodule=Data())
    x = torch.randn(5, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        lit.net.double().eval()
        expected, width = lit.net(x), lit.net[1][0].out_channels
        report = gdp.remove_zeros(lit.net, x[:1])
        return {
            "dense width": width,
            "plan": report.plan.to_dict(),
            "remains": report.remaining,
            "difference": (lit.net(x) - expected).abs().max().item(),
            "weights": {name: p.flatten().tolist() for name, p in lit.named_parameters()},
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    (folder / "main.json").write_text(json.dumps([fit(way, folder) for way in ("ddp_fork", "ddp_spawn")]))
