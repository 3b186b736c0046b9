"""Losses that are not finite, batches of one, losses that see a part of the network, examples without data."""

import pytest
import torch
from helpers.features import refused, works
from helpers.recorders import Gates
from helpers.training import Lit, loader, trainer

from gdp import GDPCallback


@works("Bad input", "a loss that is not finite for some steps", "gates hold still then, and a warning names the step")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_gates_hold_still_while_the_loss_is_not_finite(way):
    class Sometimes(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss + float("nan") if 20 <= self.global_step < 27 else loss

    lit, pruning = Sometimes(), GDPCallback(0.5, shrink=way)
    gates = Gates(pruning)
    with pytest.warns(UserWarning, match=r"the loss or a gradient of step 21 is not finite, and gates hold still"):
        trainer(pruning, gates, epochs=20).fit(lit, loader())
    assert all(torch.equal(gates.values[i], gates.values[19]) for i in range(20, 27))
    assert not torch.equal(gates.values[27], gates.values[19]) and not torch.equal(gates.values[18], gates.values[19])
    assert 0.49 <= pruning.report.remaining <= 0.5


@works("Bad input", "weights that have become NaN", "gates hold still; the cut is made and compared all the same")
def test_a_broken_training_ends_without_a_second_error():
    class Broken(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.global_step >= 10 else loss

    lit, pruning = Broken(), GDPCallback(0.5)
    gates = Gates(pruning)
    with pytest.warns(UserWarning, match="loss or a gradient of step 11 is not finite"):
        trainer(pruning, gates, epochs=10).fit(lit, loader())
    assert all(torch.equal(value, gates.values[9]) for value in gates.values[10:])
    assert 0.49 <= pruning.report.remaining <= 0.5


@works("Bad input", "a loss that ignores part of the network", "what no loss asks for goes first")
def test_a_loss_that_ignores_part_of_the_network():
    class Part(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.ModuleDict({"stem": self.net[:2], "head": self.net[2:], "other": torch.nn.Sequential(
                torch.nn.Conv2d(16, 12, 3), torch.nn.ReLU(), torch.nn.Conv2d(12, 4, 1))})  # fmt: skip

        def forward(self, x):
            x = self.net["stem"](x)
            return self.net["head"](x), self.net["other"](x)

        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0])[0], batch[1])

        def validation_step(self, batch, batch_idx): ...

    pruning = GDPCallback(0.5)
    trainer(pruning, epochs=8).fit(Part(), loader())
    kept = {name: n for name, n, _ in pruning.report.groups}
    assert 0.49 <= pruning.report.remaining <= 0.5 and kept["net.other.0"] <= 3


@works("Bad input", "batches of one image")
def test_a_batch_of_one():
    pruning = GDPCallback(0.5)
    trainer(pruning, epochs=4).fit(Lit(), loader(16, batch_size=1))
    assert 0.49 <= pruning.report.remaining <= 0.5


@refused(
    "Bad input",
    "an example input without data (device `meta`)",
    "Expected `example_input_array` of … to hold numbers, but it is on the device 'meta'.",
)
def test_an_example_on_a_device_without_data(refusal):
    class Meta(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.example_input_array = torch.randn(1, 3, 12, 12, device="meta")

    with refusal:
        trainer(GDPCallback(0.5)).fit(Meta(), loader())
