"""Layers that are frozen when gdp begins, and thawed later."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import BaseFinetuning, Callback

import gdp
from gdp import GDPCallback


class Frozen(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net[1].requires_grad_(False)


class ThawsItself(Frozen):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[1].requires_grad_(True)


class Thaw(Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 6:
            pl_module.net[1].requires_grad_(True)


class Finetuning(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[1])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[1], optimizer)


def messages(lit, *callbacks) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(*callbacks, epochs=6).fit(lit, loader())
    return [str(w.message) for w in caught if "frozen when pruning began" in str(w.message)]


@pytest.mark.parametrize("make, others", [(ThawsItself, ()), (Frozen, (Thaw(),))])
def test_layers_that_user_code_thaws_are_named_once_with_the_way_out(make, others):
    pruning = GDPCallback(0.8)
    (message,) = messages(make(), pruning, *others)
    assert "1.0.weight" in message and "Thaw layers before fit, or by a finetuning callback" in message
    (reason,) = [f.reason for f in pruning.report.frozen if f.reason.startswith("1.0.weight, which reads it")]
    assert "set requires_grad before gdp begins" in reason and "BackboneFinetuning" in reason


def test_layers_that_stay_frozen_are_not_warned_of():
    assert messages(Frozen(), GDPCallback(0.8)) == []


@pytest.mark.parametrize("turn", [1, -1])
def test_a_finetuning_callback_is_waited_for(turn):
    pruning = GDPCallback(0.5)
    assert messages(Lit(), *[pruning, Finetuning()][::turn]) == []
    assert pruning.report.remaining <= 0.5 and "0.0" in [name for name, *_ in pruning.report.groups]


def test_check_says_the_same():
    lit = Frozen()
    reasons = [f.reason for f in gdp.check(lit.net, torch.zeros(1, 3, 12, 12)).frozen]
    assert any("set requires_grad before gdp begins" in reason for reason in reasons)
