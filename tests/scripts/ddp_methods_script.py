"""Run by test_published_methods.py: two processes, each with half of the digits, one short run per method."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.digits import LitDigits, digits
from helpers.training import trainer

import gdp

if __name__ == "__main__":
    torch.set_num_threads(1)
    record = {}
    for name in gdp.methods.names():
        pl.seed_everything(0)
        lit, pruning = LitDigits(), gdp.GDPCallback(0.4, method=name)
        run = trainer(pruning, epochs=6, strategy="ddp", devices=2)
        run.fit(lit, digits())
        state = {k: v.double().sum().item() for k, v in lit.state_dict().items() if "running" not in k}
        plan, remaining = pruning.report.plan.to_dict(), pruning.report.remaining
        record[name] = {"plan": plan, "remaining": remaining, "weights": state}
    Path(sys.argv[1], f"rank{run.global_rank}.json").write_text(json.dumps(record))
