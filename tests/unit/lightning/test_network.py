"""Where the example input comes from: nested batches, arguments by name, lists."""

import pytest
import torch
from torch import nn

import gdp
from gdp.lightning.network import example_inputs

X, U = torch.randn(4, 3, 8, 8), torch.randn(6, 3, 8, 8)
Y = torch.zeros(4, dtype=torch.long)


class Module(nn.Module):
    """A training module without a forward of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, *, image, mask=None):
        return self.conv(image if mask is None else image * mask)


class Listed(ByName):
    def forward(self, xs):
        return self.conv(sum(xs))


class Calls(Module):
    """Hands its network something else than it was given."""

    def forward(self, image):
        return self.net(image=image, mask=torch.ones(1))


BATCHES = {
    "labelled": {"labelled": [X, Y]},
    "labelled and not": {"labelled": [X, Y], "unlabelled": [U, torch.zeros(6)]},
    "pairs": [[X, Y], [U, torch.zeros(6)]],
    "pairs of dicts": [{"x": X, "y": Y}, {"x": U}],
    "deep": {"source": {"images": [X, X], "ids": ["a", "b", "c", "d"]}},
    "tuple in a list": [([X], Y)],
}


@pytest.mark.parametrize("name", BATCHES)
def test_the_input_is_found_in_nested_batches(name):
    found = example_inputs(Module(nn.Conv2d(3, 8, 3)), "net", None, BATCHES[name])
    assert len(found) == 1 and torch.equal(found[0], X[:1])


def test_arguments_by_name_are_taken_from_a_dict():
    module = Module(ByName())
    found = example_inputs(module, "net", None, {"image": X, "mask": torch.ones(4, 1, 8, 8), "label": Y})
    assert torch.equal(found[0], X[:1])
    assert gdp.trace(module.net, found).flops.dense == 8 * 27 * 36


def test_what_the_module_hands_on_by_name_is_what_counts():
    found = example_inputs(Calls(ByName()), "net", None, {"image": X, "label": Y})
    assert len(found) == 2 and torch.equal(found[1], torch.ones(1))


def test_a_list_is_handed_on_as_it_is():
    found = example_inputs(Module(Listed()), "net", ([X[:1], X[:1]],), None)
    assert len(found) == 1 and isinstance(found[0], list) and len(found[0]) == 2
