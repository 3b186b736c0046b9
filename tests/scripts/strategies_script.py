"""Run by test_strategies.py: two processes train in several ways, and every rank writes what it has come to."""

import json
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.training import Lit, images, trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gdp


class Plain(Lit):
    """No batch norm, which would see half of the images in each process."""

    def __init__(self) -> None:
        super().__init__()
        for stage in self.net[:3]:
            stage[1] = nn.Identity()


class Unused(Plain):
    """A head that is not used in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        out = self.net(batch[0])
        return self.loss(self.other(out) if batch_idx % 3 == 0 else out, batch[1])


class OneIsNaN(Plain):
    """The loss of the second process is not finite for some steps."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + float("nan") if 8 <= self.global_step < 13 and self.global_rank == 1 else loss


class Last(Callback):
    """The gates when training ends, and those of every step."""

    def __init__(self, pruning: gdp.GDPCallback) -> None:
        self.pruning, self.steps = pruning, []

    def on_train_batch_end(self, *_):
        self.steps.append(self.pruning.pruner.gates.gate_param.double().sum().item())

    def on_train_end(self, *_):
        self.raw = self.pruning.pruner.gates.gate_param.tolist()


def share(processes: int) -> DataLoader:
    """What this process sees of every global batch of 16 images, in order; Lightning's own sampler would shuffle."""
    rank = int(os.environ.get("LOCAL_RANK", "0")) if processes > 1 else 0
    x, y = images().tensors
    return DataLoader(TensorDataset(x[rank::processes], y[rank::processes]), 16 // processes)


def run(make, folder: Path, **kw) -> dict:
    """Train, and say what came of it."""
    pl.seed_everything(0)
    lit, pruning = make(), gdp.GDPCallback(0.5, module="net")
    last = Last(pruning)
    run = trainer(
        pruning, last, epochs=6, precision="64-true", default_root_dir=folder, use_distributed_sampler=False, **kw
    )
    run.fit(lit, share(kw.get("devices", 1)))
    return {
        "plan": pruning.report.plan.to_dict(),
        "report": pruning.report.to_dict(),
        "raw": last.raw,
        "steps": last.steps,
        "weights": {name: p.flatten().tolist() for name, p in lit.named_parameters()},
        "rank": run.global_rank,
    }


WAYS = {
    "plain": (Plain, lambda: DDPStrategy()),
    "bucket views": (Plain, lambda: DDPStrategy(gradient_as_bucket_view=True)),
    "static graph": (Plain, lambda: DDPStrategy(static_graph=True)),
    "batch norm": (Lit, lambda: "ddp"),
    "unused": (Unused, lambda: "ddp_find_unused_parameters_true"),
    "one is nan": (OneIsNaN, lambda: "ddp"),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    record = {way: run(make, folder, strategy=strategy(), devices=2) for way, (make, strategy) in WAYS.items()}
    (folder / f"rank{record['plain']['rank']}.json").write_text(json.dumps(record))
