"""Which networks choose positions by values, and which only seem to."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms

from gdp.tracing import trace_channels
from gdp.tracing.export import exported
from gdp.tracing.selecting import selecting_operators

X = torch.randn(1, 3, 12, 12)


class Net(nn.Module):
    def __init__(self, choose) -> None:
        super().__init__()
        self.choose, self.a, self.head = choose, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.choose(self.head(self.a(x).relu()).flatten(2))


@pytest.mark.parametrize(
    "choose, found",
    [
        (lambda y: y.topk(5, 2)[1], ("topk",)),
        (lambda y: y.max(2).indices.float() + y.argmin(2), ("max", "argmin")),
        (lambda y: y.gather(2, y.sort(2).indices), ("sort",)),
        (lambda y: F.max_pool1d(y, 2, return_indices=True)[1], ("max_pool1d_with_indices",)),
        # values alone, and results that nothing uses
        (lambda y: y.topk(5, 2)[0], ()),
        (lambda y: y.max(2).values + y.sort(2)[0].sum(2), ()),
        (lambda y: (y, y.argmax(2))[0], ()),
        (lambda y: F.max_pool1d(y, 2), ()),
    ],
)
def test_positions_that_are_used_count(choose, found):
    assert trace_channels(Net(choose), X).selects == found


@pytest.mark.parametrize(
    "choose, found",
    [
        (lambda y: nms(y[0].T.abs().cumsum(1), y[0, 0], 0.5), ("nms",)),
        (lambda y: torch.nonzero(y > 0), ("nonzero",)),
        (lambda y: y[y > 0], ()),  # in the order in which they lie
        (lambda y: torch.unique(y), ("_unique2",)),
    ],
)
def test_choices_of_unknown_size_count(choose, found):
    assert selecting_operators(exported(Net(choose), (X,)), frozenset()) == found
