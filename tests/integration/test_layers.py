"""Layers of gdp.layers in runs of Trainers: their losses, and pruning."""

import re
from itertools import pairwise

import pytest
import torch
from helpers.features import works
from helpers.layered import SmallResidual
from helpers.paths import ROOT
from helpers.training import Lit, X, loader, outputs, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

import gdp
from gdp import GDPCallback, LayersCallback
from gdp.layers import ShiftedConv2d, StripeConv2d, fold, linearize, penalty, prune_stripes, stripe
from gdp.utils import count_flops

SWAPS = {"linear": linearize, "striped": stripe}
ALL_STEPS = {"correlation": 0.3, "every": 1, "sparsity": 0.1, "threshold": 0}  # strong enough to be seen


class LitLayers(Lit):
    """A small residual network with layers of one kind."""

    def __init__(self, kind: str, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.fused = SmallResidual(), fused
        SWAPS[kind](self.net)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, fused=self.fused)


class Written(LitLayers):
    """The same with the losses of the layers written into `training_step`."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        with torch.autocast("cpu", enabled=False):
            return loss + penalty(self.net, ALL_STEPS["correlation"], ALL_STEPS["sparsity"])


class OnlyLayers(LitLayers):
    """A task without gradients."""

    def training_step(self, batch, batch_idx):
        return 0 * super().training_step(batch, batch_idx)


def scaler() -> list[MixedPrecision]:
    return [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**7))]


def parameters(lit: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in lit.parameters()])


RUNS = {
    "accumulation of 3, clipped": {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5},
    "gradient scaler": {"plugins": scaler, "gradient_clip_val": 0.5},
    "fused under a gradient scaler, accumulation of 3": {"plugins": scaler, "accumulate_grad_batches": 3},
}


@works(
    "Training loop", "`gdp.LayersCallback`", "equal to the same loss in `training_step`, with accumulation and scalers"
)
@pytest.mark.parametrize("kind", SWAPS)
@pytest.mark.parametrize("run", RUNS)
def test_the_callback_trains_as_the_same_loss_in_the_training_step_does(run, kind):
    options = {key: value() if callable(value) else value for key, value in RUNS[run].items()}
    fused, found = run.startswith("fused"), []
    for lit, callbacks in (Written(kind, fused), ()), (LitLayers(kind, fused), [LayersCallback(**ALL_STEPS)]):
        start = parameters(lit)
        trainer(*callbacks, epochs=2, **options).fit(lit, loader(12, 4))
        found.append(parameters(lit) - start)
    without = LitLayers(kind, fused)
    trainer(epochs=2, **options).fit(without, loader(12, 4))
    expected, actual = found
    scale = (parameters(without) - start - expected).norm()
    assert scale > 0.05 and (actual - expected).norm() < 1e-3 * scale


def test_the_correlation_loss_comes_with_every_so_many_steps_and_the_first():
    lit, seen = OnlyLayers("linear"), []

    class Look(gdp.lightning.compat.Callback):
        def on_train_batch_end(self, *_):
            seen.append(parameters(lit))

    lit.configure_optimizers = lambda: torch.optim.SGD(lit.parameters(), 0.05)
    seen.append(parameters(lit))
    trainer(LayersCallback(every=3), Look(), epochs=1, max_steps=6).fit(lit, loader(128))
    assert [not torch.equal(a, b) for a, b in pairwise(seen)] == [True, False, False] * 2


def test_stripes_that_have_gone_stay_away_and_can_be_removed():
    lit = LitLayers("striped")
    lit.net.a.skeleton.data[0] = 0.009
    lit.net.b.skeleton.data = torch.linspace(0.02, 0.5, 72).view(8, 3, 3)
    seen = []

    class Look(gdp.lightning.compat.Callback):
        def on_train_batch_end(self, *_):
            seen.append(sum(int((m.skeleton == 0).sum()) for m in lit.net.modules() if isinstance(m, StripeConv2d)))

    trainer(LayersCallback(sparsity=0.3), Look(), epochs=3).fit(lit, loader())
    assert seen == sorted(seen) and len(set(seen)) > 4
    skeletons = [m.skeleton for m in lit.net.modules() if isinstance(m, StripeConv2d)]
    assert bool((lit.net.a.skeleton[0] == 0).all()) and all(bool((s[s != 0].abs() >= 0.01).all()) for s in skeletons)
    gone = sum(int((s == 0).sum()) for s in skeletons)
    assert 30 < gone < sum(s.numel() for s in skeletons)
    expected, flops = outputs(lit), count_flops(lit.net, X[:1])
    prune_stripes(lit.net)
    assert any(isinstance(m, ShiftedConv2d) for m in lit.net.modules())
    torch.testing.assert_close(outputs(lit), expected, rtol=1e-5, atol=1e-5)
    assert count_flops(lit.net, X[:1]) < flops


@pytest.mark.parametrize("kind", SWAPS)
def test_a_resumed_run_is_the_uninterrupted_one(kind, tmp_path):
    def run(lit, epochs, path=None):
        save = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1)
        callbacks = [LayersCallback(correlation=0.3, every=3, sparsity=0.3), save]
        trainer(*callbacks, epochs=epochs, enable_checkpointing=True).fit(lit, loader(), ckpt_path=path)
        return parameters(lit)

    whole = run(LitLayers(kind), 2)
    assert torch.equal(run(LitLayers(kind), 2, tmp_path / "epoch=0.ckpt"), whole)


@works("Training loop", "networks with `LinearConv2d` and `StripeConv2d`", "pruned exactly, as other layers are")
@pytest.mark.parametrize("kind", SWAPS)
def test_networks_with_such_layers_are_pruned_exactly(kind, tmp_path):
    lit, pruning = LitLayers(kind), GDPCallback(target_flops=0.5)
    dense = count_flops(lit.net, X[:1])
    trainer(pruning, LayersCallback(), epochs=6).fit(lit, loader())
    report = pruning.report
    assert 0.45 < report.remaining <= 0.5 and report.max_rel < 1e-5
    assert report.flops_before == dense and report.flops_after == report.flops_predicted == count_flops(lit.net, X[:1])
    assert [frozen.name for frozen in report.frozen] == ["head"]  # everything else can be pruned
    expected = outputs(lit)
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    assert torch.equal(outputs(gdp.load_pruned(SmallResidual(), tmp_path / "small.pt")), expected)
    fold(lit.net)
    torch.testing.assert_close(outputs(lit), expected, rtol=1e-5, atol=1e-5)


def test_stripes_that_are_left_are_pruned_along_what_they_read():
    lit = LitLayers("striped")
    for layer in lit.net.modules():
        if isinstance(layer, StripeConv2d):
            layer.skeleton.data[1:, ::2, ::2] = 0
    prune_stripes(lit.net)
    lit.net.a, pruning = lit.net.a.fold(), GDPCallback(target_flops=0.8)
    trainer(pruning, epochs=6).fit(lit, loader())
    report = pruning.report
    assert report.remaining <= 0.8 and report.flops_after == report.flops_predicted == count_flops(lit.net, X[:1])
    assert [name for name, *_ in report.groups] == ["a"]
    reasons = {frozen.name: frozen.reason for frozen in report.frozen}
    assert reasons["c.stripes.0_0"] == "index_select in c takes entries at fixed positions"


BAD = [
    ({"correlation": -1}, "`correlation` to be a finite number, at least 0, but got -1"),
    ({"sparsity": float("nan")}, "`sparsity` to be a finite number"),
    ({"threshold": "0.01"}, "`threshold` to be a finite number"),
    ({"every": 0}, "`every` to be a number of optimizer steps, at least 1, but got 0"),
]


@pytest.mark.parametrize("options, sentence", BAD)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(gdp.GDPError, match=sentence):
        LayersCallback(**options)


def test_a_network_without_such_layers_is_refused_before_the_first_step():
    lit = Lit()
    start = parameters(lit)
    with pytest.raises(gdp.GDPError, match=r"Lit has neither a LinearConv2d nor a StripeConv2d.*gdp.layers.linearize"):
        trainer(LayersCallback()).fit(lit, loader())
    assert torch.equal(parameters(lit), start)


def test_the_code_of_the_document_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/layers.md").read_text(), re.S)

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = SmallResidual()

    names = {"Model": Model, "Trainer": lambda callbacks: trainer(*callbacks, epochs=4), "data": loader()}
    exec(block, names)
    assert torch.equal(outputs(names["again"]), outputs(names["model"].net))
