"""Run by test_ddp.py: two processes whose `training_step` gathers from all of them, and reads inside the network."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.training import Lit, loader, trainer
from torch import nn

import gdp


class Reads(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(8, 4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        features = self.net[0](x)
        gathered = self.all_gather(self.auxiliary(features.mean((2, 3))), sync_grads=True)
        logits = self.net(x)
        everyone = self.all_gather(logits.mean())
        if self.global_rank == 1 and self.net[1][0].out_channels < 16:
            raise ValueError("the second process alone minds")
        self.log("loss", everyone.mean(), sync_dist=True)
        return self.loss(logits, y) + 0.1 * gathered.square().mean()


if __name__ == "__main__":
    torch.set_num_threads(1)
    pl.seed_everything(0)
    lit, pruning = Reads(), gdp.GDPCallback(target_flops=0.7, module="net")
    run = trainer(pruning, epochs=4, strategy="ddp", devices=2)
    run.fit(lit, loader())
    assert pruning.report is not None
    state = {k: v.double().sum().item() for k, v in lit.state_dict().items() if "running" not in k and "num" not in k}
    record = {"report": pruning.report.to_dict(), "weights": state}
    Path(sys.argv[1], f"rank{run.global_rank}.json").write_text(json.dumps(record))
