"""Caches beside the modules hold no tensors without data afterwards, and do not disturb the trace."""

import functools

import pytest
import torch
from torch import nn

import gdp

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GRIDS: dict[int, torch.Tensor] = {}


class NotInstalled:
    """Stands for a package, as some networks' files have them: it raises when anything is asked of it."""

    def __getattr__(self, name):
        raise ImportError("no such package")

    def __call__(self):
        raise ImportError("no such package")


optional = NotInstalled()
shortest = functools.lru_cache(len)  # of no Python function


@functools.lru_cache
def remembered(size):
    return torch.arange(float(size))


def kept(size):
    if size not in GRIDS:
        GRIDS[size] = torch.arange(float(size))
    return GRIDS[size]


class Gridded(nn.Module):
    def __init__(self, grid) -> None:
        super().__init__()
        self.a, self.b, self.grid = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), grid

    def forward(self, x):
        y = self.b(self.a(x))
        return y * self.grid(y.shape[-1])


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("grid", [remembered, kept], ids=["lru_cache", "dict"])
def test_a_network_with_a_cache_beside_its_modules_is_pruned_and_works_afterwards(grid, warm):
    GRIDS.clear()
    remembered.cache_clear()
    net = Gridded(grid)
    if warm:
        net(X)
    assert gdp.check(net, X).groups == (("a", 1, 8),)
    assert type(net(X)) is torch.Tensor and all(type(t) is torch.Tensor for t in GRIDS.values())
