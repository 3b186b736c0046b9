"""A network with a layer that takes long, whatever its FLOPs."""

import time

from helpers.networks import conv
from torch import nn


class Slow(nn.Conv2d):
    """A conv that takes four milliseconds per 32 pairs of channels, whatever its FLOPs."""

    def forward(self, x):
        time.sleep(4e-3 * self.in_channels * self.out_channels / 32)
        return super().forward(x)


class WithSlow(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(conv(3, 16), conv(16, 16), Slow(16, 16, 1), nn.ReLU(), conv(16, 16), nn.Conv2d(16, 4, 1))
