"""TODO integration/test_checkpoint_callbacks."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import works
from helpers.training import Lit, images, loader, trainer
from pytorch_lightning.callbacks import (
    Callback,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdp import GDPCallback

AREA = "Other callbacks"


BOTH_ORDERS = pytest.mark.parametrize("turn", [1, -1], ids=["gdp first", "gdp last"])


def fit(*others, turn=1, make=Lit, pruned=True, epochs=4, method="polar", shrink="epoch", data=None, resume=None, **kw):
    """Train from the same start, with gdp before (1) or behind (-1) the other callbacks, or without it."""
    pl.seed_everything(0)
    lit, pruning = make(), GDPCallback(0.5, method=method, shrink=shrink)
    run = trainer(*[pruning, *others][::turn] if pruned else others, epochs=epochs, **kw)
    run.fit(lit, *([] if hasattr(lit, "batch_size") else [data or loader(), loader()]), ckpt_path=resume)
    if pruned:
        assert_pruned(lit, pruning)
    return lit, pruning, run


def assert_pruned(lit, pruning, low=0.49) -> None:
    assert low <= pruning.report.remaining <= 0.5 and not gates(lit)
    assert {type(m).__module__.split(".")[0] for m in lit.modules()} <= {"torch", "lit", __name__}
    assert not {"configure_model", "on_load_checkpoint"} & lit.__dict__.keys()


def gates(module: nn.Module) -> list[str]:
    return [name for name in module.state_dict() if name.endswith("_gdp_gate")]


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def same_batches() -> DataLoader:
    """A run that is resumed inside an epoch begins the epoch's data anew; here that makes no difference."""
    x, y = images(16).tensors
    return DataLoader(TensorDataset(x.repeat(4, 1, 1, 1), y.repeat(4)), 16)


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("the power is gone")


@pytest.fixture(scope="module")
def whole():
    """What is left of a run without other callbacks that is not interrupted."""
    return fit(epochs=5, data=same_batches())[0]


@BOTH_ORDERS
@pytest.mark.parametrize(
    "kw, names",
    [
        pytest.param(
            {"every_n_train_steps": 3, "save_top_k": -1},
            {f"step={step}" for step in range(3, 21, 3)},
            marks=works(AREA, "ModelCheckpoint every so many steps", "resumed bit for bit"),
            id="steps",
        ),
        pytest.param(
            {"monitor": "val", "mode": "max"},
            None,
            marks=works(AREA, "ModelCheckpoint of the best by a metric", "resumed bit for bit"),
            id="best",
        ),
        pytest.param(
            {"save_last": True, "save_top_k": 2, "monitor": "step", "mode": "max"},
            {"last", "step=16", "step=20"},
            marks=works(AREA, "ModelCheckpoint of the last epoch", "resumed bit for bit"),
            id="last",
        ),
    ],
)
def test_checkpoints(tmp_path, whole, turn, kw, names):
    def run(folder, **more):
        save = ModelCheckpoint(tmp_path / folder, filename="{step}", **kw)
        found = fit(save, turn=turn, epochs=5, data=same_batches(), enable_checkpointing=True, **more)
        return *found, save, {p.stem for p in (tmp_path / folder).glob("*.ckpt")}

    lit, pruning, _, save, files = run("pruned")
    if names is None:
        assert len(files) == 1 and 0 < save.best_model_score <= 1
        resume = save.best_model_path
    else:
        assert files == names == run("dense", pruned=False)[-1]
        resume = save.last_model_path or save.best_model_path
    again, pruning_again, *_ = run("again", resume=resume)
    assert_equal(whole, lit)
    assert_equal(whole, again)
    assert pruning_again.report.plan == pruning.report.plan


@works(AREA, "ModelCheckpoint of the last epoch", "resumed bit for bit")
@BOTH_ORDERS
def test_the_last_checkpoint_of_a_run_that_broke_off(tmp_path, whole, turn):
    def run(folder, *more, **kw):
        save = ModelCheckpoint(tmp_path / folder, save_last=True)
        return fit(save, *more, turn=turn, epochs=5, data=same_batches(), enable_checkpointing=True, **kw)[0]

    with pytest.raises(RuntimeError, match="power"):
        run("broken", Stop(14))
    assert_equal(whole, run("again", resume=tmp_path / "broken/last.ckpt"))


@works(AREA, "OnExceptionCheckpoint", "resumed bit for bit")
@pytest.mark.parametrize("step", [0, 2, 10])
@BOTH_ORDERS
def test_a_checkpoint_of_the_moment_of_an_exception(tmp_path, whole, turn, step):
    def run(*others, **kw):
        return fit(*others, turn=turn, epochs=5, data=same_batches(), **kw)[0]

    save = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="power"):
        run(save, Stop(step), enable_checkpointing=True)
    assert_equal(whole, run(resume=save.ckpt_path))
