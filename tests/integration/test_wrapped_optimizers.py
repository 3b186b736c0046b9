"""Runs with optimizers that hold other optimizers, or tensors in places of their own."""

import pytest
import pytorch_lightning as pl
import torch
from helpers.cuts import assert_same, fit
from helpers.features import refused, works
from helpers.optimizers import SAM, ByName, ListOfLists, Lookahead, MasterWeights, ScheduleFree
from helpers.recorders import Sizes
from helpers.training import Lit, loader, trainer

from gdp import GDPCallback

pytestmark = pytest.mark.slow


def with_optimizer(make):
    class Trained(Lit):
        def __init__(self) -> None:
            super().__init__()
            for layers in self.net[:3]:  # a bias before a batch norm has no gradient but rounding
                layers[0].bias = None

        def configure_optimizers(self):
            return make(self.parameters())

    return Trained


WRAPPED = {
    "SAM": lambda p: SAM(p, lr=0.02, momentum=0.9),
    "Lookahead": lambda p: Lookahead(torch.optim.Adam(p, 0.01)),
    "SAM in Lookahead": lambda p: Lookahead(SAM(p, lr=0.02, momentum=0.9)),
    "schedule-free": lambda p: ScheduleFree(p, 0.05),
}


@works("Training loop", "an optimizer around another (SAM, Lookahead)", "its state and the inner one's are cut along")
@pytest.mark.parametrize("name", WRAPPED)
def test_optimizers_within_optimizers_are_cut_along_and_the_run_ends_the_same(name):
    late, early = (fit(way, make=with_optimizer(WRAPPED[name])) for way in ("end", "epoch"))
    assert_same(late, early)
    assert early[2].sizes[-1] < early[2].sizes[0] / 2


@refused(
    "Training loop",
    "optimizers that keep copies of the weights in lists or dicts of their own, with cuts in training",
    "gdp can cut what lies in the `state` of an optimizer, by parameter…GDPCallback(shrink='end')",
)
@pytest.mark.parametrize("make", [ListOfLists, ByName, MasterWeights])
def test_tensors_in_lists_of_an_optimizer_are_refused_before_the_second_step(make, refusal):
    def build(**kw):
        pl.seed_everything(0)
        return with_optimizer(lambda p: make(p, lr=0.05, momentum=0.9))(), GDPCallback(0.5, **kw), Sizes()

    lit, pruning, sizes = build()
    with refusal as error:
        trainer(pruning, sizes).fit(lit, loader())
    assert str(error.value).startswith(f"{make.__name__} keeps a tensor of shape")
    assert len(sizes.sizes) <= 1 and pruning.pruner is None
    lit, pruning, sizes = build(shrink="end")
    trainer(pruning, sizes).fit(lit, loader())
    assert pruning.report.remaining <= 0.5
