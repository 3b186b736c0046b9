"""GDPCallback beside ModelCheckpoint and OnExceptionCheckpoint."""

from __future__ import annotations

import pytest
from helpers.beside import assert_equal, fit_beside, same_batches
from helpers.features import works
from pytorch_lightning.callbacks import (
    Callback,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)

pytestmark = pytest.mark.slow


AREA = "Other callbacks"


BOTH_ORDERS = pytest.mark.parametrize("turn", [1, -1], ids=["gdp first", "gdp last"])


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("the power is gone")


@pytest.fixture(scope="module")
def whole():
    """What is left of a run without other callbacks that is not interrupted."""
    return fit_beside(epochs=5, data=same_batches())[0]


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
        found = fit_beside(save, turn=turn, epochs=5, data=same_batches(), enable_checkpointing=True, **more)
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
        return fit_beside(save, *more, turn=turn, epochs=5, data=same_batches(), enable_checkpointing=True, **kw)[0]

    with pytest.raises(RuntimeError, match="power"):
        run("broken", Stop(14))
    assert_equal(whole, run("again", resume=tmp_path / "broken/last.ckpt"))


@works(AREA, "OnExceptionCheckpoint", "resumed bit for bit")
@pytest.mark.parametrize("step", [0, 2, 10])
@BOTH_ORDERS
def test_a_checkpoint_of_the_moment_of_an_exception(tmp_path, whole, turn, step):
    def run(*others, **kw):
        return fit_beside(*others, turn=turn, epochs=5, data=same_batches(), **kw)[0]

    save = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="power"):
        run(save, Stop(step), enable_checkpointing=True)
    assert_equal(whole, run(resume=save.ckpt_path))
