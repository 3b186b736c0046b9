"""Two GDPCallbacks in one run."""

import copy

from helpers.training import Lit, loader, trainer

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
