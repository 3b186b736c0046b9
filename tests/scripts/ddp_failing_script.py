"""Run by test_not_cut_at_the_end.py: of two processes, one can't run the network any more when training is over."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.training import Lit, loader, trainer
from torch import nn

import gdp


class Fails(nn.Sequential):
    over = False

    def forward(self, x):
        if self.over:
            raise LookupError("no tickets left")
        return super().forward(x)


class Over(pl.Callback):
    def on_train_end(self, trainer, pl_module):
        pl_module.net.over = trainer.global_rank == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    pl.seed_everything(0)
    lit, pruning = Lit(), gdp.GDPCallback(target_flops=0.5)
    lit.net = Fails(*lit.net)
    run = trainer(pruning, Over(), epochs=4, strategy="ddp", devices=2)
    run.fit(lit, loader())
    assert pruning.report is not None
    parameters = list(lit.parameters())
    record = {
        "failure": pruning.report.failure,
        "weights": [p.double().sum().item() for p in parameters],
        "shapes": [list(p.shape) for p in parameters],
    }
    Path(sys.argv[1], f"rank{run.global_rank}.json").write_text(json.dumps(record))
