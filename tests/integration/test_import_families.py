"""`pytorch_lightning` and `lightning.pytorch` are two packages with classes of their own; gdp works with both."""

import importlib
import subprocess
import sys

import pytest
import torch
from helpers.features import works
from helpers.training import loader, small_net
from torch import nn

import gdp

pytestmark = pytest.mark.slow


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(f, marks=works("Import families", f"`import {f} as pl`"))
        for f in ("pytorch_lightning", "lightning.pytorch")
    ],
)
@pytest.mark.parametrize("average", [False, True])
def test_both_families(family, average, tmp_path):
    pl = importlib.import_module(family)
    callbacks = importlib.import_module(f"{family}.callbacks")

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def test_step(self, batch, batch_idx):
            self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)

    def fit(path=None):
        pl.seed_everything(0)
        model, pruning = Model(), gdp.GDPCallback(target_flops=0.5)
        save = callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        more = [callbacks.EMAWeightAveraging(decay=0.9)] if average else []
        trainer = pl.Trainer(max_epochs=8, callbacks=[pruning, *more, save], **QUIET)
        trainer.fit(model, loader(), ckpt_path=path)
        assert 0.49 <= pruning.report.remaining <= 0.5
        return model, trainer

    model, trainer = fit()
    trainer.test(model, loader(), verbose=False)
    again, _ = fit(tmp_path / "epoch=3.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    loaded = gdp.load_checkpoint(Model(), tmp_path / "epoch=7.ckpt")
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in model.parameters()]


@works("Import families", "an environment with only one of the two")
def test_one_family_is_enough():
    code = (
        "import sys; sys.modules['lightning'] = None\n"  # as if it were not installed
        "import gdp, pytorch_lightning as pl\n"
        "assert isinstance(gdp.GDPCallback(0.5), pl.Callback)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
