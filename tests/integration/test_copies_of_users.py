"""Averages made by hand, in plain objects that a LightningModule or a callback holds, at the end of a run."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers.training import Lit, images, loader, outputs, trainer
from pytorch_lightning.callbacks import Callback
from torch import nn

import gdp
from gdp import GDPCallback


class ModelEMA:
    """An average that walks the state_dict."""

    def __init__(self, model: nn.Module, decay: float = 0.8) -> None:
        self.ema, self.decay = copy.deepcopy(model).eval(), decay
        self.ema.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        now = model.state_dict()
        for name, value in self.ema.state_dict().items():
            if value.dtype.is_floating_point:
                value.mul_(self.decay).add_((1 - self.decay) * now[name].detach())


class Averaging(Lit):
    """The module has the average made, and keeps it in a dict of objects."""

    kept: dict

    def on_fit_start(self):
        self.kept = {"ema": ModelEMA(self.net)}

    def on_train_batch_end(self, *_):
        self.kept["ema"].update(self.net)

    @property
    def ema(self):
        return self.kept["ema"].ema


class AveragingCallback(Callback):
    """The same, by a callback that knows nothing of gdp."""

    def on_fit_start(self, trainer, pl_module):
        self.average = ModelEMA(pl_module.net)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.average.update(pl_module.net)

    @property
    def ema(self):
        return self.average.ema


def accuracy(net: nn.Module) -> float:
    x, y = images(256).tensors
    with torch.no_grad():
        return float((net.eval()(x).argmax(1) == y).float().mean())


def assert_cut_along(ema: nn.Module, lit: Lit) -> None:
    assert not any("gdp" in name for name in ema.state_dict())
    assert not any("gdp" in type(m).__module__ or any("gdp" in key for key in vars(m)) for m in ema.modules())
    assert [p.shape for p in ema.parameters()] == [p.shape for p in Lit().net.parameters()]
    expected = outputs(ema)
    gdp.cut_like(ema, lit.net)
    assert [p.shape for p in ema.parameters()] == [p.shape for p in lit.net.parameters()]
    torch.testing.assert_close(outputs(ema), expected, rtol=1e-5, atol=1e-5)
    assert accuracy(ema) > 0.9 and accuracy(lit.net) > 0.9


@pytest.mark.parametrize("order", [1, -1])
def test_averages_of_users_become_plain_and_are_cut_along(order, tmp_path):
    pl.seed_everything(0)
    lit, pruning, average = Averaging(), GDPCallback(0.5, shrink="end"), AveragingCallback()
    trainer(*[pruning, average][::order], epochs=12).fit(lit, loader(256, shuffle=True))
    assert pruning.report.remaining <= 0.5
    for ema in (lit.ema, average.ema):
        assert_cut_along(ema, lit)
    gdp.save_pruned(lit.ema, tmp_path / "ema.pt")
    loaded = gdp.load_pruned(Lit().net, tmp_path / "ema.pt")
    assert torch.equal(outputs(loaded), outputs(lit.ema))


def test_an_average_that_is_looked_at_inside_the_window_is_gated():
    class Looking(Averaging):
        def on_train_epoch_end(self):
            gates = [m for m in self.ema.modules() if type(m).__name__.startswith("Gated")]
            self.__dict__.setdefault("seen", []).append((len(gates), accuracy(self.ema)))

    pl.seed_everything(0)
    lit = Looking()
    trainer(GDPCallback(0.4, shrink="end"), epochs=12).fit(lit, loader(256, shuffle=True))
    assert [number > 0 for number, _ in lit.seen] == [False] * 1 + [True] * 11
    assert min(found for _, found in lit.seen[6:]) > 0.9


def test_an_average_of_the_whole_module_is_cut_like_it():
    class Whole(Averaging):
        def on_fit_start(self):
            trainer, self.trainer = self.trainer, None
            self.kept = {}
            self.kept["ema"] = ModelEMA(self)
            self.trainer = trainer

        def on_train_batch_end(self, *_):
            self.kept["ema"].update(self)

    pl.seed_everything(0)
    lit = Whole()
    trainer(GDPCallback(0.5, shrink="end"), epochs=12).fit(lit, loader(256, shuffle=True))
    expected = outputs(lit.ema)
    gdp.cut_like(lit.ema, lit)
    torch.testing.assert_close(outputs(lit.ema), expected, rtol=1e-5, atol=1e-5)
    assert [p.shape for p in lit.ema.parameters()] == [p.shape for p in lit.parameters()]


def test_a_run_without_a_step_leaves_averages_plain():
    lit = Averaging()
    with pytest.warns(UserWarning, match="no training step was made"):
        trainer(GDPCallback(0.5, shrink="end"), epochs=0).fit(lit, loader())
    assert not any("gdp" in name for name in lit.ema.state_dict())


def test_cuts_on_the_way_refuse_an_average_by_hand_and_name_the_way_out():
    with pytest.raises(gdp.GDPError, match=r"shrink='end'.*gdp.cut_like"):
        trainer(GDPCallback(0.5), AveragingCallback(), epochs=4).fit(Lit(), loader())
