"""A method's penalty in a Lightning run is what it would be in `training_step`; averages follow what factors do."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from helpers.training import Lit, loader, trainer
from helpers.weight_methods import Factored, Penalised, by_hand
from pytorch_lightning.callbacks import EMAWeightAveraging

import gdp


class Written(Lit):
    """Adds the penalty to its loss, until the gates' window ends."""

    def __init__(self, pruning: gdp.GDPCallback, strength: float) -> None:
        super().__init__()
        self.pruning, self.strength = [pruning], strength

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if self.pruning[0].pruner.done or not self.strength else loss + by_hand(self.net, self.strength)


class Split(Written):
    """Two optimizers, one of which has nothing but norms, and steps first."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        norms = [p for p in self.parameters() if p.dim() == 1]
        return [torch.optim.SGD(ps, 0.05) for ps in (norms, [p for p in self.parameters() if p.dim() > 1])]


CASES = {
    "plain": (Written, dict),
    "accumulated": (Written, lambda: {"accumulate_grad_batches": 3}),
    "clipped": (Written, lambda: {"gradient_clip_val": 0.1}),
    "split": (Split, dict),
}


@pytest.mark.parametrize("case", CASES)
def test_the_penalty_is_what_it_is_in_training_step(case):
    module, options = CASES[case]
    found = []
    for inside in (False, True):
        pl.seed_everything(0)
        pruning = gdp.GDPCallback(0.5, method=Penalised(strength=0.0 if inside else 0.02))
        lit = module(pruning, 0.02 if inside else 0.0)
        trainer(pruning, epochs=2, **options()).fit(lit, loader(96))
        assert pruning.report.remaining <= 0.5
        found.append(lit.net.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turn", [1, -1])
def test_averages_of_lightning_follow_factors_and_are_cut_exactly(turn):
    pl.seed_everything(0)
    lit, pruning = Lit(), gdp.GDPCallback(0.5, method=Factored(factor=0.9))
    averaging = EMAWeightAveraging(decay=0.5)
    trainer(*[pruning, averaging][::turn], epochs=3).fit(lit, loader())
    assert pruning.report.remaining <= 0.5 and pruning.report.max_rel < 1e-5
