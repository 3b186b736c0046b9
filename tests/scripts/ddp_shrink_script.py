"""Run by test_shrink_in_training.py: two processes train, cutting on the way or at the end, and write what is left."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.recorders import Sizes
from helpers.training import Lit, loader, trainer
from pytorch_lightning.strategies import DDPStrategy

import gdp


class Alone(DDPStrategy):
    """No process sees the other's gradients: what a lost hook would look like."""

    def pre_backward(self, closure_loss):
        self.model.require_backward_grad_sync = False


if __name__ == "__main__":
    torch.set_num_threads(1)
    record = {}
    for way, strategy in (("end", DDPStrategy()), ("epoch", DDPStrategy()), (2, DDPStrategy()), ("alone", Alone())):
        pl.seed_everything(0)
        pruning, sizes = gdp.GDPCallback(0.5, shrink="end" if way == "alone" else way), Sizes()
        lit = Lit()
        run = trainer(pruning, sizes, epochs=6, strategy=strategy, devices=2, precision="64-true")
        run.fit(lit, loader())
        weights = [p.sum().item() for p in lit.parameters()]
        record[str(way)] = {"plan": str(pruning.report.plan), "weights": weights, "sizes": sizes.sizes}
    Path(sys.argv[1], f"rank{run.global_rank}.json").write_text(json.dumps(record))
