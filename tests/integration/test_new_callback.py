"""A new callback on a network that an old one has gated, in a run that was interrupted; the old one is gone."""

from __future__ import annotations

import gc
import pickle

import pytest
import pytorch_lightning as pl
import torch
from helpers.training import Lit, X, loader, outputs, small_net, trainer
from pytorch_lightning.callbacks import Callback

import gdp
from gdp import GDPCallback

DENSE = torch.zeros(1, 3, 12, 12)


class Stop(Callback):
    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise self.error("stopped")


def interrupted(step: int, error=RuntimeError, **kw) -> Lit:
    pl.seed_everything(0)
    lit = Lit()
    with pytest.raises((error, SystemExit)):
        trainer(GDPCallback(0.5, **kw), Stop(step, error), epochs=10).fit(lit, loader())
    gc.collect()
    return lit


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", [2, 15, 30])
@pytest.mark.parametrize("first, second", [("epoch", "epoch"), ("end", "epoch"), ("epoch", "end"), (5, 3)])
def test_the_network_is_taken_over(first, second, step, error, tmp_path):
    lit, pruning = interrupted(step, error, shrink=first), GDPCallback(0.4, shrink=second)
    dense = gdp.utils.count_flops(small_net(), DENSE)
    trainer(pruning, epochs=10).fit(lit, loader())
    assert pruning.report.flops_before == dense
    assert 0.38 <= gdp.utils.count_flops(lit.net, DENSE) / dense <= 0.4
    assert not any("gdp" in name for name in lit.state_dict())
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    assert torch.equal(outputs(gdp.load_pruned(small_net(), tmp_path / "small.pt")), outputs(lit.net))


@pytest.mark.parametrize("shrink", ["epoch", "end"])
def test_a_new_callback_may_have_other_options(shrink):
    lit, pruning = interrupted(25, shrink=shrink), GDPCallback(0.3, method="annealed", min_channels=2)
    with pytest.warns(
        UserWarning, match="an interrupted run has cut" if shrink == "epoch" else "run has left gates in"
    ):
        trainer(pruning, epochs=4).fit(lit, loader())
    assert pruning.report.remaining <= 0.3 and min(kept for _, kept, _ in pruning.report.groups) >= 2
    assert not any("gdp" in name for name in lit.state_dict())


def test_times_of_a_network_that_was_cut_in_part_are_refused():
    lit = interrupted(30)
    latency = GDPCallback(0.5, method=gdp.Polar(cost="latency"))
    with pytest.raises(gdp.GDPError, match=r"gdp\.make_plain"):
        trainer(latency, epochs=4).fit(lit, loader())
    gdp.make_plain(lit)
    trainer(latency, epochs=4).fit(lit, loader())
    assert latency.report is not None and not any("gdp" in name for name in lit.state_dict())


@pytest.mark.parametrize("shrink", ["epoch", "end"])
@pytest.mark.parametrize("step", [2, 15, 30])
def test_a_network_is_made_plain_without_the_old_objects(step, shrink, tmp_path):
    lit = interrupted(step, shrink=shrink)
    expected = outputs(lit)
    with pytest.raises(gdp.GDPError, match=r"has gates already.*gdp\.make_plain\(network\)"):
        gdp.trace(lit.net, DENSE)
    gdp.make_plain(lit)
    assert not any("gdp" in name for name in lit.state_dict())
    assert not any("gdp" in type(m).__module__ or any("gdp" in k for k in vars(m)) for m in lit.modules())
    torch.testing.assert_close(outputs(lit), expected)
    before = sum(p.numel() for p in lit.parameters())
    gdp.remove_zeros(lit.net, X[:1])
    torch.testing.assert_close(outputs(lit), expected, rtol=1e-5, atol=1e-5)
    assert step < 30 or shrink == "epoch" or sum(p.numel() for p in lit.parameters()) < before
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    assert torch.equal(outputs(gdp.load_pruned(small_net(), tmp_path / "small.pt")), outputs(lit.net))


def test_the_old_callback_begins_anew_after_a_network_was_made_plain():
    pl.seed_everything(0)
    lit, pruning = Lit(), GDPCallback(0.5, shrink="end")
    with pytest.raises(RuntimeError):
        trainer(pruning, Stop(30, RuntimeError), epochs=10).fit(lit, loader())
    gdp.make_plain(lit)
    trainer(pruning, epochs=4).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5


def test_the_old_callback_finds_the_network_of_the_new_one_small():
    pl.seed_everything(0)
    lit, old, new = Lit(), GDPCallback(0.5), GDPCallback(0.5)
    with pytest.raises(RuntimeError):
        trainer(old, Stop(30, RuntimeError), epochs=10).fit(lit, loader())
    trainer(new, epochs=4).fit(lit, loader())
    trainer(old, epochs=4).fit(lit, loader())
    assert old.report.remaining <= 0.5 and not any("gdp" in name for name in lit.state_dict())


def test_an_unpickled_network_is_made_plain():
    lit = interrupted(30, shrink="end")
    expected, net = outputs(lit.net), pickle.loads(pickle.dumps(lit.net))
    gdp.make_plain(net)
    torch.testing.assert_close(outputs(net), expected)
    assert type(net[0][0]) is torch.nn.Conv2d and not any("gdp" in name for name in net.state_dict())
    other = pickle.loads(pickle.dumps(lit.net))
    lit.net = other
    pruning = GDPCallback(0.4)
    trainer(pruning, epochs=6).fit(lit, loader())
    assert pruning.report.remaining <= 0.4
