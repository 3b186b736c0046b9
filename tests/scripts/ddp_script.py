"""Run by test_ddp.py: two processes, each sees its own half of the data; every rank writes what it decided."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.training import Lit, loader, trainer

import gdp

if __name__ == "__main__":
    torch.set_num_threads(1)
    pl.seed_everything(0)
    lit, pruning = Lit(), gdp.GDPCallback(target_flops=0.5)
    run = trainer(pruning, epochs=4, strategy="ddp", devices=2)
    run.fit(lit, loader())
    assert pruning.report is not None
    state = {k: v.double().sum().item() for k, v in lit.state_dict().items() if "running" not in k and "num" not in k}
    record = {"plan": pruning.report.plan.to_dict(), "report": pruning.report.to_dict(), "weights": state}
    Path(sys.argv[1], f"rank{run.global_rank}.json").write_text(json.dumps(record))
