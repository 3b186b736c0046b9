"""GDPCallback beside Lightning's tuners."""

from __future__ import annotations

import gc

import pytest
import pytorch_lightning as pl
import torch
from helpers.beside import Progress, assert_pruned, fit_beside, gate_buffers
from helpers.features import works
from helpers.training import Lit, images, trainer
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    LambdaCallback,
    LearningRateFinder,
)
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader

from gdp import GDPCallback

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
    """Lightning's finders collect garbage again and again, which takes its time with all of torch in memory."""
    gc.freeze()
    yield
    gc.unfreeze()


AREA = "Other callbacks"


BOTH_ORDERS = pytest.mark.parametrize("turn", [1, -1], ids=["gdp first", "gdp last"])


class Sized(Lit):
    """What a tuner looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size, self.lr = 8, 0.05

    def train_dataloader(self):
        return DataLoader(images(), batch_size=self.batch_size)

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


FINDERS = [
    pytest.param(
        lambda: BatchSizeFinder(init_val=8, max_trials=2, steps_per_trial=1),
        lambda finder: finder.optimal_batch_size,
        marks=works(AREA, "BatchSizeFinder"),
        id="batch size",
    ),
    pytest.param(
        lambda: LearningRateFinder(num_training_steps=30),
        lambda finder: (finder.optimal_lr.suggestion(), finder.optimal_lr.results["loss"]),
        marks=works(AREA, "LearningRateFinder"),
        id="learning rate",
    ),
]


@pytest.mark.parametrize("make, result", FINDERS)
@BOTH_ORDERS
def test_finders(tmp_path, turn, make, result):
    ends = []
    for pruned in (False, True):
        finder, progress = make(), Progress()
        more = [finder, progress] if pruned else [finder]
        lit, _, run = fit_beside(*more, turn=turn, make=Sized, pruned=pruned, default_root_dir=tmp_path)
        ends.append((result(finder), lit.batch_size, lit.lr, run.global_step))
    assert ends[0] == ends[1] and result(finder) and (lit.batch_size, lit.lr) != (8, 0.05)
    assert len(progress.done) == run.global_step == 4 * 64 // lit.batch_size
    assert progress.done[round(0.6 * run.global_step)] and progress.remaining[0] == 1.0
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    "tune",
    [
        pytest.param(
            lambda tuner, lit: tuner.lr_find(lit, num_training=30).suggestion(),
            marks=works(AREA, "Tuner.lr_find before fit"),
            id="lr_find",
        ),
        pytest.param(
            lambda tuner, lit: tuner.scale_batch_size(lit, init_val=8, max_trials=2, steps_per_trial=1),
            marks=works(AREA, "Tuner.scale_batch_size before fit"),
            id="scale_batch_size",
        ),
    ],
)
@BOTH_ORDERS
def test_tuners(tmp_path, turn, tune):
    found = []
    for pruned in (False, True):
        pl.seed_everything(0)
        lit, pruning, watch = Sized(), GDPCallback(0.5), LambdaCallback(on_train_start=lambda *_: None)
        start = {name: value.clone() for name, value in lit.state_dict().items()}
        run = trainer(*[pruning, watch][::turn] if pruned else [watch], epochs=4, default_root_dir=tmp_path)
        found.append((tune(Tuner(run), lit), lit.batch_size, lit.lr))
        state = lit.state_dict()
        assert not gate_buffers(lit) and state.keys() == start.keys() and "configure_model" not in lit.__dict__
        assert all(torch.equal(state[name], value) for name, value in start.items() if "running" not in name)
        run.fit(lit)
    assert found[0] == found[1] and found[0][0] and (lit.batch_size, lit.lr) != (8, 0.05)
    assert_pruned(lit, pruning)
    assert run.global_step == 4 * 64 // lit.batch_size
