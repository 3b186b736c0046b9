"""A weight that another parameter scales along filters or kernel positions can be cut and gated along its inputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gdp

X = torch.randn(2, 3, 8, 8)


class Scaled(nn.Module):
    """A conv whose weight is multiplied by a parameter or buffer of a given shape."""

    def __init__(self, *shape: int, trained: bool = True, transposed: bool = False, swap: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(8, 2, 1)
        self.weight = nn.Parameter(torch.randn(*((6, 8) if transposed else (8, 6)), 3, 3))
        mask = torch.rand(shape) + 0.5
        self.conv, self.swap = F.conv_transpose2d if transposed else F.conv2d, swap
        if trained:
            self.mask = nn.Parameter(mask)
        else:
            self.register_buffer("mask", mask)

    def forward(self, x):
        mask = self.mask if self.mask.dim() != 3 else self.mask[:, None]
        weight = mask * self.weight if self.swap else self.weight * mask
        return self.head(torch.relu(self.conv(torch.relu(self.stem(x)), weight)))


NETWORKS = {
    "a skeleton": lambda: Scaled(8, 3, 3),
    "a mask of filters, a buffer": lambda: Scaled(8, 1, 1, 1, trained=False),
    "of positions": lambda: Scaled(1, 1, 3, 3, swap=True),
    "a number": lambda: Scaled(1),
    "of inputs of a transposed conv": lambda: Scaled(6, 1, 1, 1, transposed=True),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_channels_on_both_sides_are_cut_and_gated(make):
    net = make()
    graph = gdp.trace(net, X)  # compares gated and cut networks, and their FLOPs
    groups = {group.name: group for group in graph.groups}
    assert {name: group.size for name, group in groups.items()} == {"stem": 6, "weight": 8}
    assert groups["stem"].readers == ("weight",) and groups["weight"].readers == ("head",)
    if net.mask.shape[0] > 1:
        carrier = "stem" if net.mask.shape[0] == 6 else "weight"
        assert ("mask", 0) in {(axis.tensor, axis.dim) for axis in groups[carrier].tensors}


def test_a_mask_over_what_is_read_still_freezes_it():
    graph = gdp.trace(Scaled(1, 6, 1, 1), X)
    assert "stem" not in {group.name for group in graph.groups}


def test_channels_that_are_looked_up_by_number_stay_with_the_reason():
    class LooksUp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 1), nn.Conv2d(4, 2, 1)
            self.register_buffer("at", torch.tensor([0, 2, 5, 7]))

        def forward(self, x):
            return self.b(self.a(torch.relu(self.stem(x))).index_select(1, self.at))

    graph = gdp.trace(LooksUp(), X)
    assert [group.name for group in graph.groups] == ["stem"]
    assert (
        graph.frozen[0].name == "a"
        and graph.frozen[0].reason == "index_select in forward takes entries at fixed positions"
    )
