"""Runs that are resumed or tested, and modules for them."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn


class Testable(Lit):
    def test_step(self, batch, batch_idx):
        self.log("test", self(batch[0]).sum())


def run(tmp_path, *callbacks, make=Testable, epochs=10, path=None, **kw):
    pl.seed_everything(0)
    lit, save = make(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fitting = trainer(*callbacks, save, epochs=epochs, enable_checkpointing=True, **kw)
    fitting.fit(lit, loader(), loader(), ckpt_path=path)
    return lit, fitting


class Turns(Testable):
    """Two optimizers take turns, batch by batch: `turn` says which of them steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization, self.critic = False, nn.Linear(4, 1)

    def turn(self, batch_idx: int) -> int:
        return self.global_step % 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.critic.parameters(), 0.01), torch.optim.SGD(self.net.parameters(), 0.05)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()[self.turn(batch_idx)]
        optimizer.zero_grad()
        out = self.net(batch[0])
        self.manual_backward(self.loss(out, batch[1]) + self.critic(out).mean())
        optimizer.step()
