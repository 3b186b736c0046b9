"""Runs that are cut in training, and what must be the same afterwards."""

import pytorch_lightning as pl
import torch
from helpers.recorders import Sizes
from helpers.training import Lit, loader, trainer

from gdp import GDPCallback


def fit(way, *callbacks, make=Lit, epochs=10, resume=None, turn=1, target=0.4, module=None, data=None, **kw):
    pl.seed_everything(0)
    lit, pruning, sizes = make(), GDPCallback(target, module=module, shrink=way), Sizes()
    run = trainer(*[pruning, *callbacks][::turn], sizes, epochs=epochs, **({"precision": "64-true"} | kw))
    run.fit(lit, data or loader(), loader(), ckpt_path=resume, weights_only=False)
    return lit, pruning.report, sizes, run


def assert_same(one, other, **tolerance) -> None:
    assert one[1].plan == other[1].plan and one[1].flops_after == other[1].flops_after
    assert (one[1].flops_before, one[1].params_before) == (other[1].flops_before, other[1].params_before)
    states = [result[0].state_dict() for result in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, **(tolerance or {"rtol": 1e-9, "atol": 1e-12}))
