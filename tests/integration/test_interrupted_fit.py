"""Fits that were interrupted: begun anew, taken up again, left behind for another model."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import works
from helpers.training import Lit, X, images, loader, outputs, small_net, trainer
from pytorch_lightning.callbacks import Callback

import gdp
from gdp import GDPCallback
from gdp.surgery import shrink


def test_an_interrupted_fit_can_be_begun_anew():
    class Fails(Lit):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 10 and self.fails:
                raise ValueError("disk on fire")
            return super().training_step(batch, batch_idx)

    lit, pruning = Fails(), gdp.GDPCallback(target_flops=0.5)
    lit.fails = True
    with pytest.raises(ValueError, match="disk on fire"):
        trainer(pruning, epochs=4).fit(lit, loader())
    lit.fails = False
    trainer(pruning, epochs=4).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5


def test_an_interrupted_run_is_taken_up_again_and_ends_at_the_target(tmp_path):
    class Interrupt(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 5:
                trainer.should_stop = True
                raise ValueError("interrupted")

    pl.seed_everything(0)
    lit, pruning = Lit(), GDPCallback(0.4)
    with pytest.raises(ValueError, match="interrupted"):
        trainer(pruning, Interrupt(), epochs=10).fit(lit, loader())
    assert lit.net[0][0].out_channels < 8
    with pytest.warns(UserWarning, match="interrupted run has cut this network in part"):
        trainer(pruning, epochs=10).fit(lit, loader())
    dense = gdp.utils.count_flops(Lit().net, torch.zeros(1, 3, 12, 12))
    assert pruning.report.flops_before == dense
    assert 0.39 <= gdp.utils.count_flops(lit.net, torch.zeros(1, 3, 12, 12)) / dense <= 0.4
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    loaded = gdp.load_pruned(small_net(), tmp_path / "small.pt").eval()
    x = images().tensors[0]
    assert torch.equal(loaded(x), lit.net.eval()(x))


def test_an_interrupted_second_run_can_not_be_saved_as_the_first(tmp_path):
    pl.seed_everything(0)
    lit = Lit()
    trainer(GDPCallback(0.6), epochs=4).fit(lit, loader())
    graph = gdp.trace(lit.net, torch.randn(1, 3, 12, 12))
    gates = gdp.insert_gates(lit.net, graph)
    gates.close("0.0", [0])
    shrink(gates)
    with pytest.raises(gdp.GDPError, match="cut further after its report was made"):
        gdp.save_pruned(lit.net, tmp_path / "small.pt")


class Stop(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 20:
            raise RuntimeError("the power is gone")


@works("After fit", "copies that the user made of the gated network, in the LightningModule", "become plain as well")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_copies_become_plain(way):
    class Best(Lit):
        def on_train_epoch_end(self):
            if self.current_epoch == 4:
                self.__dict__["expected"] = outputs(self.net)
                self.best = copy.deepcopy(self.net)
                self.train()

    lit = Best()
    trainer(GDPCallback(0.5, module="net", shrink="end" if way == "end" else 100), epochs=10).fit(lit, loader())
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())
    assert all(type(m).__module__ != "gdp.readers" for m in lit.modules())
    torch.testing.assert_close(outputs(lit.best), lit.expected, rtol=1e-5, atol=1e-5)


@works(
    "Failures",
    "another model with the callback of an interrupted run",
    "the first one becomes plain and stays as it was",
)
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_another_model_after_an_interrupted_run(way):
    first, pruning = Lit(), GDPCallback(0.5, shrink=way)
    with pytest.raises(RuntimeError, match="the power is gone"):
        trainer(pruning, Stop(), epochs=10).fit(first, loader())
    expected = outputs(first)
    with pytest.warns(UserWarning, match=r"is left as it was, without gates.*remove_zeros"):
        trainer(pruning, epochs=4).fit(Lit(), loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
    torch.testing.assert_close(outputs(first), expected)
    assert not any(name.endswith("_gdp_gate") for name in first.state_dict())
    report = gdp.remove_zeros(first.net, X[:1])
    assert report.remaining < 1 or way == "epoch"  # nothing is left to cut
    torch.testing.assert_close(outputs(first), expected, rtol=1e-5, atol=1e-5)
