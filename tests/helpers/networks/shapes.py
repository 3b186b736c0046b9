"""Networks with grouped convolutions, and with channels that are shuffled, split, flattened or viewed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from helpers.networks.building import conv
from torch import Tensor, nn


class Depthwise(nn.Module):
    """MobileNet block, and a depthwise conv with two filters per channel."""

    flops = 2 * (144 * (3 * 10 * 9 + 2 * 10) + 144 * (10 * 9 + 2 * 10) + 100 * 20 * 9 + 100 * 20 * 4)
    after = (
        {"expand.0": [1, 3, 5, 7]},
        2 * (144 * (3 * 6 * 9 + 2 * 6) + 144 * (6 * 9 + 2 * 6) + 100 * 12 * 9 + 100 * 12 * 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = conv(3, 10), conv(10, 10, groups=10)
        self.wide, self.head = nn.Conv2d(10, 20, 3, groups=10), nn.Conv2d(20, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.hardswish(self.wide(self.depth(self.expand(x)))))


class Grouped(nn.Module):
    """ResNeXt block: the grouped conv sits between two pointwise ones."""

    flops = 2 * 144 * (
        (3 * 12 * 9 + 2 * 12) + (12 * 12 + 2 * 12) + (4 * 3 * 4 * 9 + 2 * 16) + 16 * 12 + 12 * 4
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 12), conv(12, 12, 1), conv(12, 16, groups=4)
        self.c, self.head = nn.Conv2d(16, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.c(self.b(self.a(x))))


class GroupedBetweenStreams(nn.Module):
    """A grouped conv reads one residual stream and makes the next."""

    flops = 2 * 144 * (
        (3 * 8 * 9 + 2 * 8) + (8 * 8 * 9 + 2 * 8) + 2 * 4 * 6 * 9 + (12 * 12 * 9 + 2 * 12) + 12 * 4
    )  # fmt: skip
    after = {"stem.0": [1], "grouped": [0, 3]}, 2 * 144 * (
        (3 * 6 * 9 + 2 * 6) + (6 * 6 * 9 + 2 * 6) + 2 * 3 * 4 * 9 + (8 * 8 * 9 + 2 * 8) + 8 * 4
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.grouped = conv(3, 8), conv(8, 8), nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.b, self.head = conv(12, 12), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.grouped(x + self.a(x))
        return self.head(x + self.b(x))


class ChannelShuffle(nn.Module):
    """Two branches, concatenated and shuffled by view and transpose."""

    flops = 2 * 144 * (2 * (3 * 8 * 9 + 2 * 8) + (16 * 8 + 2 * 8) + 8 * 4)
    after = {"a.0": [2, 5, 6]}, 2 * 144 * (2 * (3 * 5 * 9 + 2 * 5) + (10 * 8 + 2 * 8) + 8 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(3, 8), conv(16, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.c(x))


class NativeShuffle(nn.Sequential):
    """Three groups of channels, shuffled by torch's own operator."""

    flops = 2 * 144 * ((3 * 12 * 9 + 2 * 12) + (12 * 8 * 9 + 2 * 8) + 8 * 4)
    after = {"0.0": [3], "2.0": [0]}, 2 * 144 * ((3 * 9 * 9 + 2 * 9) + (9 * 7 * 9 + 2 * 7) + 7 * 4)

    def __init__(self) -> None:
        super().__init__(conv(3, 12), nn.ChannelShuffle(3), conv(12, 8), nn.Conv2d(8, 4, 1))


class Chunk(nn.Module):
    """C2f of YOLOv8: the first half goes by, the second is worked on."""

    flops = 2 * 144 * ((3 * 12 * 9 + 2 * 12) + (6 * 6 * 9 + 2 * 6) + (18 * 8 + 2 * 8) + 8 * 4)
    after = (
        {"a.0": [0, 1], "m.0": [5]},  # 4 + 4 + 5 channels are concatenated
        2 * 144 * ((3 * 8 * 9 + 2 * 8) + (4 * 5 * 9 + 2 * 5) + (13 * 8 + 2 * 8) + 8 * 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.out = conv(3, 12), conv(6, 6), conv(18, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.a(x).chunk(2, 1))
        parts.append(self.m(parts[-1]))
        return self.head(self.out(torch.cat(parts, 1)))


class UnevenSplit(nn.Module):
    """Channels split into parts of literal sizes must stay; the rest may go."""

    flops = 2 * 144 * ((3 * 10 * 9 + 2 * 10) + (4 * 8 * 9 + 2 * 8) + (6 * 8 * 9 + 2 * 8) + 8 * 4)
    stays = "splits channels into uneven parts"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 10), conv(4, 8), conv(6, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).split([4, 6], 1)
        return self.head(self.b(left) * self.c(right))


class PixelShuffle(nn.Module):
    """Super resolution: four channels become one, and later one becomes four."""

    flops = 2 * (
        144 * (3 * 24 * 9 + 2 * 24) + 576 * (6 * 6 * 9 + 2 * 6) + 144 * (24 * 8 * 9 + 2 * 8) + 144 * 8 * 12 * 9
    )  # fmt: skip
    after = {"a.0": [1], "b.0": [0, 5], "c.0": [2]}, 2 * (
        144 * (3 * 20 * 9 + 2 * 20) + 576 * (5 * 4 * 9 + 2 * 4) + 144 * (16 * 7 * 9 + 2 * 7) + 144 * 7 * 12 * 9
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 24), conv(6, 6), conv(24, 8), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.pixel_shuffle(self.a(x), 2))
        return F.pixel_shuffle(self.head(self.c(F.pixel_unshuffle(x, 2))), 2)


class FlattenLinear(nn.Module):
    """Flatten without pooling: every channel is 9 columns of the linear layer."""

    flops = 2 * (36 * (3 * 6 * 9 + 2 * 6) + 9 * (6 * 8 * 9 + 2 * 8) + 72 * 11 + 2 * 11 + 11 * 4)
    after = (
        {"a.0": [0, 1], "b.0": [3, 7], "fc1": [4, 5]},
        2 * (36 * (3 * 4 * 9 + 2 * 4) + 9 * (4 * 6 * 9 + 2 * 6) + 54 * 9 + 2 * 9 + 9 * 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6, stride=2), conv(6, 8, stride=2)
        self.fc1, self.bn, self.fc2 = nn.Linear(72, 11), nn.BatchNorm1d(11), nn.Linear(11, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.bn(self.fc1(self.b(self.a(x)).flatten(1)))))


class PooledLinear(nn.Sequential):
    """Flatten after adaptive pooling: every channel is 4 columns of the linear layer."""

    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8) + 144 * 8 + 32 * 5)
    after = {"0.0": [0, 2, 4]}, 2 * (144 * (3 * 5 * 9 + 2 * 5) + 144 * 5 + 20 * 5)

    def __init__(self) -> None:
        super().__init__(conv(3, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))


class ViewLinear(nn.Module):
    """`view(b, -1)`, with the batch size taken from the tensor."""

    flops = 2 * (36 * (3 * 6 * 9 + 2 * 6) + 6 * 36 * 5)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = conv(3, 6, stride=2), nn.Linear(6 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(x.view(x.size(0), -1))
