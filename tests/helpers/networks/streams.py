"""Networks with shortcuts, concatenations and scales: streams of channels that meet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from helpers.networks.building import conv
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


class Chain(nn.Sequential):
    """Nothing is hard here."""

    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8) + 36 * (8 * 12 * 9 + 2 * 12) + 36 * 12 * 5)
    after = {"0.0": [0, 3], "1.0": [5]}, 2 * (144 * (3 * 6 * 9 + 2 * 6) + 36 * (6 * 11 * 9 + 2 * 11) + 36 * 11 * 5)

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 12, stride=2), nn.Conv2d(12, 5, 1))


class Residual(nn.Module):
    """Two blocks on one stream, the second with a projection."""

    flops = 2 * 144 * (
        (3 * 8 * 9 + 2 * 8)
        + (8 * 6 * 9 + 2 * 6) + 6 * 8 * 9
        + (8 * 10 * 9 + 2 * 10) + 8 * 10
        + 10 * 4
    )  # fmt: skip
    after = {"stem.0": [0, 1, 6], "a.0": [2], "c.0": [4, 9]}, 2 * 144 * (
        (3 * 5 * 9 + 2 * 5)
        + (5 * 5 * 9 + 2 * 5) + 5 * 5 * 9
        + (5 * 8 * 9 + 2 * 8) + 5 * 8
        + 8 * 4
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), conv(8, 6), nn.Conv2d(6, 8, 3, padding=1)
        self.c, self.down, self.head = conv(8, 10), nn.Conv2d(8, 10, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(self.a(x))
        return self.head(F.relu(self.c(x) + self.down(x)))


class ConcatTwice(nn.Module):
    """`cat([x, x])`: every channel has two slots in what reads it."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (16 * 6 * 9 + 2 * 6) + 6 * 4)
    after = {"a.0": [1, 2, 7]}, 2 * 144 * ((3 * 5 * 9 + 2 * 5) + (10 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(16, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(self.b(torch.cat([x, x], 1)))


class Concat(nn.Module):
    """A cascade: what was concatenated is concatenated with itself, and again with what was made of it."""

    flops = 2 * (
        144 * (3 * 6 * 9 + 2 * 6)
        + 36 * (6 * 8 * 9 + 2 * 8)
        + 36 * 8 * 4 + 144 * 4  # up, resized
        + 144 * (20 * 5 * 9 + 2 * 5)
        + 144 * (10 * 7 * 9 + 2 * 7)
        + 144 * 12 * 3
    )  # fmt: skip
    after = {"a.0": [0], "up": [1, 2], "d.0": [3]}, 2 * (
        144 * (3 * 5 * 9 + 2 * 5)
        + 36 * (5 * 8 * 9 + 2 * 8)
        + 36 * 8 * 2 + 144 * 2
        + 144 * (14 * 4 * 9 + 2 * 4)  # twice 5 + 2 channels
        + 144 * (7 * 7 * 9 + 2 * 7)
        + 144 * 11 * 3
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6), conv(6, 8, stride=2)
        self.up, self.c = nn.Conv2d(8, 4, 1), conv(10, 7)
        self.d, self.head = conv(20, 5), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        skip = torch.cat([a, F.interpolate(self.up(self.b(a)), scale_factor=2)], 1)
        d = self.d(torch.cat([skip, skip], 1))
        return self.head(torch.cat([d, self.c(skip)], 1))


class ConcatOfPositions(nn.Module):
    """Concat along another dimension: the channels of both parts go together."""

    flops = 2 * (2 * 144 * (3 * 8 * 9 + 2 * 8) + 288 * 8 * 4)
    after = {"a.0": [0, 7]}, 2 * (2 * 144 * (3 * 6 * 9 + 2 * 6) + 288 * 6 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(3, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x), self.b(x)], 2))


class UNet(nn.Module):
    """A skip from the encoder, concatenated with what comes up from below."""

    flops = 2 * (
        144 * (3 * 6 * 9 + 2 * 6)
        + 36 * (6 * 8 * 9 + 2 * 8) + 4 * 144 * 8  # resized, bilinear
        + 144 * (14 * 7 * 9 + 2 * 7)
        + 144 * 7 * 4
    )  # fmt: skip
    after = {"encode.0": [1], "below.0": [0, 2, 4], "decode.0": [6]}, 2 * (
        144 * (3 * 5 * 9 + 2 * 5)
        + 36 * (5 * 5 * 9 + 2 * 5) + 4 * 144 * 5
        + 144 * (10 * 6 * 9 + 2 * 6)
        + 144 * 6 * 4
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.below, self.decode = conv(3, 6), conv(6, 8, stride=2), conv(14, 7)
        self.head = nn.Conv2d(7, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.encode(x)
        up = F.interpolate(self.below(skip), scale_factor=2, mode="bilinear")
        return self.head(self.decode(torch.cat([skip, up], 1)))


class Mask(nn.Module):
    """A mask of one channel, broadcast over 32."""

    flops = 2 * 144 * ((3 * 32 * 9 + 2 * 32) + 3 * 1 * 9 + 32 * 4)
    after = {"a.0": range(12)}, 2 * 144 * ((3 * 20 * 9 + 2 * 20) + 3 * 1 * 9 + 20 * 4)
    stays = "one channel is broadcast over many"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mask, self.head = conv(3, 32), nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x) * torch.sigmoid(self.mask(x)))


class ChannelScale(nn.Module):
    """A learned scale per channel, of another number of dimensions."""

    flops = 2 * 144 * ((3 * 10 * 9 + 2 * 10) + 10 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.head = conv(3, 10), nn.Parameter(torch.rand(10, 1, 1) + 0.5), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale * self.a(x))


class SqueezeExcite(nn.Module):
    """Every channel is multiplied with what was made of all."""

    flops = 2 * (144 * (3 * 10 * 9 + 2 * 10) + 144 * 10 + 10 * 6 + 6 * 10 + 100 * 10 * 4 * 9)  # stem, pool, SE, head
    after = (
        {"a.0": [0, 4, 8], "fc1": [1, 2]},
        2 * (144 * (3 * 7 * 9 + 2 * 7) + 144 * 7 + 7 * 4 + 4 * 7 + 100 * 7 * 4 * 9),
    )

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc1, self.fc2 = conv(3, 10), nn.Conv2d(10, 6, 1), nn.Conv2d(6, 10, 1)
        self.head = nn.Conv2d(10, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        s = self.fc2(F.silu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return self.head(x * torch.sigmoid(s))


class Blocks(nn.Module):
    """Torchvision's own blocks, with and without projection, on a stem of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        down = nn.Sequential(nn.Conv2d(8, 16, 1, 2), nn.BatchNorm2d(16))
        self.stem, self.a, self.b = conv(3, 8), BasicBlock(8, 8), BasicBlock(8, 16, 2, down)
        self.c, self.head = Bottleneck(16, 4), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(self.stem(x)))))


class SegNet(nn.Module):
    """The decoder puts values back to the places that they were pooled from; fvcore counts nothing for it."""

    flops = 2 * (
        144 * (3 * 8 * 9 + 2 * 8) + 36 * (8 * 6 * 9 + 2 * 6) + 9 * 6 * 6 + 36 * (6 * 8 * 9 + 2 * 8) + 144 * 8 * 4
    )
    after = (
        {"a.0": [0, 1, 5], "b.0": [2]},
        2 * (144 * (3 * 5 * 9 + 2 * 5) + 36 * (5 * 5 * 9 + 2 * 5) + 9 * 5 * 5 + 36 * (5 * 5 * 9 + 2 * 5) + 144 * 5 * 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.middle, self.c = conv(3, 8), conv(8, 6), nn.Conv2d(6, 6, 1), conv(6, 8)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, first = self.pool(self.a(x))
        x, second = self.pool(self.b(x))
        x = self.c(self.unpool(self.middle(x), second))
        return self.head(self.unpool(x, first))
