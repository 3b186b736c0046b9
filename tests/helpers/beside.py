"""Runs of GDPCallback beside other callbacks, in both orders, and what they must leave."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from helpers.training import Lit, images, loader, trainer
from pytorch_lightning.callbacks import (
    Callback,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdp import GDPCallback


def fit_beside(
    *others, turn=1, make=Lit, pruned=True, epochs=4, method="polar", shrink="epoch", data=None, resume=None, **kw
):
    """Train from the same start, with gdp before (1) or behind (-1) the other callbacks, or without it."""
    pl.seed_everything(0)
    lit, pruning = make(), GDPCallback(0.5, method=method, shrink=shrink)
    run = trainer(*[pruning, *others][::turn] if pruned else others, epochs=epochs, **kw)
    run.fit(lit, *([] if hasattr(lit, "batch_size") else [data or loader(), loader()]), ckpt_path=resume)
    if pruned:
        assert_pruned(lit, pruning)
    return lit, pruning, run


def assert_pruned(lit, pruning, low=0.49) -> None:
    assert low <= pruning.report.remaining <= 0.5 and not gate_buffers(lit)
    assert "gdp" not in {type(m).__module__.split(".")[0] for m in lit.modules()}
    assert not {"configure_model", "on_load_checkpoint"} & lit.__dict__.keys()


def gate_buffers(module: nn.Module) -> list[str]:
    return [name for name in module.state_dict() if name.endswith("_gdp_gate")]


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def same_batches() -> DataLoader:
    """A run that is resumed inside an epoch begins the epoch's data anew; here that makes no difference."""
    x, y = images(16).tensors
    return DataLoader(TensorDataset(x.repeat(4, 1, 1, 1), y.repeat(4)), 16)


class Progress(Callback):
    """What remains after every step, and whether the target is met by then."""

    def __init__(self) -> None:
        self.remaining, self.done = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        pruner = next(c for c in trainer.callbacks if isinstance(c, GDPCallback)).pruner
        if len(self.done) < trainer.global_step:
            self.remaining.append(pruner.remaining)
            self.done.append(pruner.done)
