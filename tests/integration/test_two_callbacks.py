"""Two GDPCallbacks in one run."""

import copy
from collections import Counter

import pytest
import torch
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import Callback
from torch import nn

import gdp
from gdp import GDPCallback


def test_two_callbacks_prune_two_parts():
    class Two(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.other = copy.deepcopy(self.net)

        def forward(self, x):
            return self.net(x) + self.other(x)

    lit = Two()
    callbacks = [gdp.GDPCallback(0.5, module="net"), gdp.GDPCallback(0.7, module="other")]
    trainer(*callbacks, epochs=2).fit(lit, loader())
    assert callbacks[0].report.remaining <= 0.5 < callbacks[1].report.remaining <= 0.7


def test_hooks_of_an_instance_are_there_again_after_two_callbacks():
    class Two(Lit):
        def forward(self, x):
            return self.net(x) + self.other(x)

    lit = Two()
    lit.other = copy.deepcopy(lit.net)
    calls = []
    mine = {name: lambda *a, name=name: calls.append(name) for name in ("configure_model", "on_load_checkpoint")}
    lit.__dict__.update(mine)
    trainer(GDPCallback(0.5, module="net"), GDPCallback(0.7, module="other"), epochs=2).fit(lit, loader())
    assert calls == ["configure_model"] and all(lit.__dict__[name] is hook for name, hook in mine.items())


class TwoParts(Lit):
    """Two networks side by side; what the weights of gated layers are to whoever computes is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.products = copy.deepcopy(self.net), Counter()

    def look(self, where):
        for layer, parameter, gate in gated_layers(self.net):
            assert torch.equal(layer.weight, parameter * gate), where
            self.products[where] += bool((gate < 1).any())

    def forward(self, x):
        self.look("forward")
        return self.net(x) + self.other(x)

    def training_step(self, batch, batch_idx):
        self.look("training_step")
        return super().training_step(batch, batch_idx)


def gated_layers(net: nn.Module) -> list[tuple[nn.Module, nn.Parameter, torch.Tensor]]:
    """Layers whose gates act, each with its Parameter and its gate."""
    layers = [m for m in net.modules() if type(m).__name__.startswith("Gated")]
    return [(layer, dict(layer.named_parameters())["weight"], layer.weight_gdp_gate) for layer in layers]


class Hooks(Callback):
    """A user's callback behind those of gdp: how often `layer.weight` is the Parameter to it, and how often not."""

    def __init__(self) -> None:
        self.met, self.missed = Counter(), Counter()

    def look(self, pl_module, hook):
        for layer, parameter, gate in gated_layers(pl_module.net):
            met = isinstance(layer.weight, nn.Parameter) and layer.weight is parameter
            (self.met if met else self.missed)[hook] += bool((gate < 1).any())

    def on_after_backward(self, trainer, pl_module):
        self.look(pl_module, "on_after_backward")

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.look(pl_module, "on_train_batch_end")

    def check(self, lit: TwoParts) -> None:
        assert not self.missed and set(self.met) == {"on_after_backward", "on_train_batch_end"}
        assert set(lit.products) == {"forward", "training_step"}
        assert min(self.met.values()) > 10 and min(lit.products.values()) > 10


@pytest.mark.parametrize("turn", [1, -1], ids=["gated first", "small first"])
def test_a_small_network_beside_it_does_not_change_what_hooks_meet(turn):
    lit, second = TwoParts(), GDPCallback(0.6, module="other")
    trainer(second, epochs=4).fit(lit, loader())
    assert second.report.remaining <= 0.6 and not lit.products
    first, hooks, small = GDPCallback(0.4, module="net", shrink="end"), Hooks(), second.report
    trainer(*[first, second][::turn], hooks, epochs=6).fit(lit, loader())
    assert first.report.remaining <= 0.4 and second.report is small
    hooks.check(lit)


@pytest.mark.parametrize("turn", [1, -1])
def test_two_gated_networks_do_not_change_what_hooks_meet(turn):
    lit, hooks = TwoParts(), Hooks()
    callbacks = [GDPCallback(0.4, module="net", shrink="end"), GDPCallback(0.6, module="other")]
    trainer(*callbacks[::turn], hooks, epochs=6).fit(lit, loader())
    hooks.check(lit)


@pytest.mark.parametrize("turn", [1, -1])
def test_held_out_steps_compute_with_the_product_in_both_networks(turn):
    lit, hooks = TwoParts(), Hooks()
    callbacks = [GDPCallback(0.4, module="net", shrink="end"), GDPCallback(0.6, module="other", method="annealed")]
    trainer(*callbacks[::turn], hooks, epochs=6).fit(lit, loader())
    hooks.check(lit)
