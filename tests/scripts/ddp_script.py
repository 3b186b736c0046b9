"""Run by test_ddp.py: two processes, each sees its own half of the data; every rank writes what it decided."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.looking_methods import AddsLoss, ByActivity
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import Callback
from scripts.strategies_script import Plain, share

import gdp

OWN: list[torch.Tensor] = []  # what this process would remember alone


class Noting(ByActivity):
    """Notes what this process would remember alone."""

    def observe(self, state, seen, context):
        found = super().observe(state, seen, context)
        OWN.append(found["activity"])
        return found


class Remembered(Callback):
    """What the method remembers at last, as this process would have it alone, and as it is."""

    def __init__(self, pruning: gdp.GDPCallback) -> None:
        self.pruning, self.own, self.remembered = pruning, [], []

    def on_train_batch_end(self, *_):
        if OWN and self.pruning.pruner.method.observed_batches:
            self.own = OWN[-1].tolist()
            self.remembered = self.pruning.pruner.method_state["activity"].tolist()


def fit(method: gdp.PruningMethod, folder: str, **kw) -> dict:
    """Train with a method that looks into passes of the network, and say what came of it."""
    pl.seed_everything(0)
    lit, pruning = Plain(), gdp.GDPCallback(0.5, module="net", method=method)
    last = Remembered(pruning)
    fitting = trainer(
        pruning, last, epochs=4, precision="64-true", default_root_dir=folder, use_distributed_sampler=False, **kw
    )
    fitting.fit(lit, share(kw.get("devices", 1)))
    weights = {name: p.flatten().tolist() for name, p in lit.named_parameters()}
    found = {"plan": pruning.report.plan.to_dict(), "weights": weights}
    return found | {"own": last.own, "remembered": last.remembered}


if __name__ == "__main__":
    torch.set_num_threads(1)
    pl.seed_everything(0)
    lit, pruning = Lit(), gdp.GDPCallback(target_flops=0.5)
    run = trainer(pruning, epochs=4, strategy="ddp", devices=2)
    run.fit(lit, loader())
    assert pruning.report is not None
    state = {k: v.double().sum().item() for k, v in lit.state_dict().items() if "running" not in k and "num" not in k}
    record = {"plan": pruning.report.plan.to_dict(), "report": pruning.report.to_dict(), "weights": state}
    methods = {"shown": Noting(batches=2), "adds a loss": AddsLoss()}
    record |= {name: fit(method, sys.argv[1], strategy="ddp", devices=2) for name, method in methods.items()}
    Path(sys.argv[1], f"rank{run.global_rank}.json").write_text(json.dumps(record))
