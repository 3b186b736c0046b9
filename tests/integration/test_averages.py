"""Moving averages of the network: made by Lightning, by torch or by hand, at any time; teachers and snapshots."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.beside import fit_beside
from helpers.cuts import fit
from helpers.features import works
from helpers.training import Lit, images, loader, small_net, trainer
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel

import gdp

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("turn", [1, -1])
def test_stochastic_weight_averaging_is_cut_exactly(turn):
    lit, pruning = Lit(), gdp.GDPCallback(target_flops=0.5)
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    trainer(*[pruning, averaging][::turn], epochs=6).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5 and pruning.report.max_rel < 1e-5


class Teacher(Callback):
    def __init__(self) -> None:
        self.teacher = Lit().eval().requires_grad_(False)


def test_a_teacher_in_a_callback_is_never_touched():
    with pytest.raises(gdp.GDPError, match=r"'Teacher\.teacher.*' has the same tensors"):
        fit("epoch", Teacher())
    holder = Teacher()
    before = copy.deepcopy(holder.teacher.state_dict())
    fit("end", holder)
    after = holder.teacher.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())


class Snapshots(Callback):
    """Copies of the whole module that are made while it trains."""

    def __init__(self) -> None:
        self.best = None

    def on_train_epoch_end(self, trainer, pl_module):
        self.best = copy.deepcopy(pl_module.net) if trainer.current_epoch == 4 else self.best


def test_a_snapshot_stays_as_it_was_taken():
    holder = Snapshots()
    lit, *_ = fit("epoch", holder)
    taken = holder.best(images().tensors[0].double())
    assert holder.best[0][0].out_channels >= lit.net[0][0].out_channels and taken.isfinite().all()


class Follower(Callback):
    """An average that is the network itself, made at some moment."""

    def __init__(self, moment: str) -> None:
        self.average, self.gaps = None, []
        setattr(self, moment, self.make)

    def make(self, trainer, pl_module, *_):
        if self.average is None and trainer.current_epoch >= 0:
            self.average = AveragedModel(pl_module.net, avg_fn=lambda old, new, n: new)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if self.average is not None:
            self.average.update_parameters(pl_module.net)

    def on_validation_epoch_end(self, trainer, pl_module):
        if self.average is not None and self.average.n_averaged > 0:
            x = images().tensors[0].double()
            self.gaps.append((self.average.eval()(x) - pl_module.net(x)).abs().max().item())


@pytest.mark.parametrize("way", ["end", "epoch", 100])
@pytest.mark.parametrize("moment", ["on_train_start", "on_train_epoch_start"])
def test_an_average_made_late_is_followed(way, moment):
    follower = Follower(moment)
    lit, *_ = fit(way, follower)
    assert len(follower.gaps) >= 9 and max(follower.gaps) < 1e-9
    assert [p.shape for p in follower.average.parameters()] == [p.shape for p in lit.net.parameters()]
    assert not any("gdp" in name for name in follower.average.state_dict())


def test_an_average_made_in_on_fit_start_of_the_module_is_known():
    class Late(Lit):
        def on_fit_start(self):
            self.average = AveragedModel(self.net)

        def on_train_batch_end(self, *_):
            self.average.update_parameters(self.net)

    lit, *_ = fit("epoch", make=Late, module="net")
    assert [p.shape for p in lit.average.parameters()] == [p.shape for p in lit.net.parameters()]


class Box:
    def __init__(self, net) -> None:
        self.net = copy.deepcopy(net)


HOLDERS = {
    "a module around it": lambda net: nn.ModuleDict({"module": copy.deepcopy(net)}),
    "a dict of tensors": lambda net: {k: p.detach().clone() for k, p in net.named_parameters()},
    "a list of tensors": lambda net: [p.detach().clone() for p in net.parameters()],
    "an object": Box,
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS.keys())
@pytest.mark.parametrize("where", ["callback", "module"])
def test_averages_made_by_hand_are_refused_in_every_form(make, where):
    class ByHand(Lit):
        def __init__(self) -> None:
            super().__init__()
            if where == "module":
                self.held = make(self.net)
                for p in getattr(self.held, "parameters", list)():
                    p.requires_grad_(False)

    class Holder(Callback):
        def __init__(self) -> None:
            self.held = make(small_net()) if where == "callback" else None

    with pytest.raises(gdp.GDPError, match=r"held.* has the same tensors as the network that is pruned"):
        fit("epoch", Holder(), make=ByHand, module="net")


AREA = "Other callbacks"


BOTH_ORDERS = pytest.mark.parametrize("turn", [1, -1], ids=["gdp first", "gdp last"])


AVERAGES = [
    pytest.param(lambda: StochasticWeightAveraging(0.01, 3), marks=works(AREA, "StochasticWeightAveraging"), id="swa"),
    pytest.param(lambda: EMAWeightAveraging(decay=0.9), marks=works(AREA, "EMAWeightAveraging"), id="ema"),
    pytest.param(lambda: WeightAveraging(use_buffers=False), marks=works(AREA, "WeightAveraging"), id="mean"),
]


@pytest.fixture(scope="module")
def without_averages():
    """A dense and a pruned network."""
    return [fit_beside(epochs=6, precision="64-true", pruned=pruned)[0] for pruned in (False, True)]


@pytest.mark.parametrize("make", AVERAGES)
@BOTH_ORDERS
def test_averages(without_averages, turn, make):
    def run(*others, **kw):
        return fit_beside(*others, turn=turn, epochs=6, precision="64-true", **kw)[:2]

    averages = [make() for _ in range(3)]
    run(averages[0], pruned=False)
    dense, plain = without_averages
    (late, at_end), (early, on_the_way) = run(averages[1], shrink="end"), run(averages[2])
    assert on_the_way.report.groups == at_end.report.groups
    assert [p.shape for p in early.parameters()] == [p.shape for p in late.parameters()]
    assert sum(p.numel() for p in early.parameters()) < sum(p.numel() for p in dense.parameters())
    x = images().tensors[0].double()
    outputs = [lit.eval().double()(x) for lit in (early, late, plain)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(outputs[0], outputs[2], rtol=1e-3)  # what is left is the average
    copies = [average._average_model for average in averages]
    if isinstance(copies[0], AveragedModel):
        assert copies[0].n_averaged == copies[1].n_averaged == copies[2].n_averaged
    assert not any("gate" in name for copy in copies for name in copy.state_dict())
    assert [p.shape for p in copies[2].parameters()] == [p.shape for p in early.parameters()]
