"""What `layer.weight` of a gated layer is to hooks, and to others who compute with it."""

import pytest
import torch
from helpers.features import works
from helpers.training import Lit, loader, trainer

from gdp import GDPCallback


@works("Training loop", "hooks after the backward pass that read or change `layer.weight`", "they meet the Parameter")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_the_weight_of_a_gated_layer_is_the_parameter(way):
    class Touches(Lit):
        def on_after_backward(self):
            conv, linear = self.net[1][0], self.net[5]
            self.norm = conv.weight.grad.norm() + linear.weight.grad.norm()
            assert conv.weight is dict(conv.named_parameters())["weight"] and conv.weight.is_leaf

        def on_train_batch_end(self, *_):
            with torch.no_grad():
                self.net[1][0].weight.clamp_(-0.08, 0.08)
            assert self.net[1][0].weight.abs().max() <= 0.08
            self.pair = torch.optim.SGD([self.net[1][0].weight], 0.1)

    lit, pruning = Touches(), GDPCallback(0.5, shrink=way)
    trainer(pruning, epochs=8).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
