"""Tiny networks, each named for what makes it hard to prune.

Every class carries its FLOPs, worked out by hand, layer by layer, as fvcore counts them in eval mode:
images * positions * (in * out * taps), and 2 per element of a batch norm. `shapes` are those of the example input where
it is not two images of 3x12x12, `after` says what is left once these channels of these groups are closed, and `stays`
is part of the reason why some channels have to stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


def conv(i: int, o: int, k: int = 3, **kw) -> nn.Sequential:
    kw.setdefault("padding", k // 2)
    return nn.Sequential(nn.Conv2d(i, o, k, **kw), nn.BatchNorm2d(o), nn.ReLU())


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


class Reused(nn.Module):
    """One module called twice."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + 2 * (8 * 8 * 9 + 2 * 8) + 8 * 4)
    after = {"stem.0": [0, 5]}, 2 * 144 * ((3 * 6 * 9 + 2 * 6) + 2 * (6 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shared(self.shared(self.stem(x))))


class Tied(nn.Module):
    """Two convs that hold the same Parameter."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + 2 * 8 * 8 * 9 + 8 * 4)
    after = {"stem.0": [1, 2, 6]}, 2 * 144 * ((3 * 5 * 9 + 2 * 5) + 2 * 5 * 5 * 9 + 5 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(self.stem(x))))))


class ReturnedAndUsed(nn.Module):
    """The output of a conv is returned and also read by the next."""

    flops = 2 * 144 * (3 * 8 * 9 + (8 * 6 * 9 + 2 * 6) + 6 * 4)
    stays = "a (8 channels): reaches the network's output"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), conv(8, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, self.head(self.b(F.relu(y)))


class DictOutput(nn.Module):
    """Outputs in a dict; one of them is an inner feature, which must keep its channels."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (8 * 6 * 9 + 2 * 6) + (6 * 9 * 9 + 2 * 9) + 9 * 4)
    stays = "b.0 (6 channels): reaches the network's output"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 9), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        feature = self.b(self.a(x))
        return {"feature": feature, "out": self.head(self.c(feature))}


class TupleOutput(nn.Module):
    """Two heads, and a tuple in a tuple."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + 8 * 4 + 8 * 2)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.left, self.right = conv(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        x = self.a(x)
        return self.left(x), (self.right(x),)


class SeveralInputs(nn.Module):
    """An image, and a vector that is turned into one factor per channel."""

    shapes = (2, 3, 12, 12), (2, 5)
    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8) + 5 * 8 + 144 * 8 * 4)
    after = {"a.0": [0, 1, 2]}, 2 * (144 * (3 * 5 * 9 + 2 * 5) + 5 * 5 + 144 * 5 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.factor, self.head = conv(3, 8), nn.Linear(5, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        return self.head(self.a(x) * self.factor(v)[:, :, None, None])


class LargeBias(nn.Sequential):
    """Batch norm with a large bias before a padded conv: a constant channel is not constant at the border."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + 8 * 4 * 9)

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1))
        nn.init.constant_(self[1].bias, 20.0)


class LearnedSlopes(nn.Sequential):
    """PReLU with a slope per channel, and with one for all."""

    flops = 2 * 144 * (3 * 8 * 9 + 8 * 6 * 9 + 6 * 4)

    def __init__(self) -> None:
        slopes = nn.PReLU(8), nn.PReLU()
        nn.init.uniform_(slopes[0].weight)
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        super().__init__(first, slopes[0], second, slopes[1], nn.Conv2d(6, 4, 1))


class Transposed(nn.Module):
    """Transposed convs, plain, grouped and depthwise."""

    flops = 2 * (
        36 * (3 * 8 * 9 + 2 * 8)
        + 36 * 8 * 12 * 4  # from here on the positions are those of the input
        + 144 * 2 * 6 * 4 * 9 + 144 * 2 * 8
        + 144 * 8 * 4
        + 576 * 8 * 3 * 9
    )  # fmt: skip
    after = {"a.0": [0, 1], "up": [0], "grouped": [1]}, 2 * (
        36 * (3 * 6 * 9 + 2 * 6)
        + 36 * 6 * 10 * 4
        + 144 * 2 * 5 * 3 * 9 + 144 * 2 * 6
        + 144 * 6 * 4
        + 576 * 6 * 3 * 9
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up = conv(3, 8, stride=2), nn.ConvTranspose2d(8, 12, 2, 2)
        self.grouped, self.bn = nn.ConvTranspose2d(12, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.depth, self.head = nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.ConvTranspose2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.depth(F.relu(self.bn(self.grouped(F.relu(self.up(self.a(x))))))))


class OptionA(nn.Module):
    """Shortcut of the CIFAR ResNets: every second pixel, zero channels on both sides."""

    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8) + 36 * (8 * 9 * 9 + 2 * 9) + 36 * 9 * 16 + 36 * 16 * 4)
    after = (
        {"stem.0": [0, 3, 6], "a.0": [1, 2, 4, 8]},  # 8 of the 16 channels meet zeros and stay
        2 * (144 * (3 * 5 * 9 + 2 * 5) + 36 * (5 * 5 * 9 + 2 * 5) + 36 * 5 * 13 + 36 * 13 * 4),
    )
    stays = "meets channels that must stay"

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv(3, 8), conv(8, 9, stride=2)
        self.b, self.head = nn.Conv2d(9, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.b(self.a(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.head(x)


class Untrained(nn.Module):
    """Parameters that are not trained: a conv and a batch norm."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (8 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Conv2d(6, 4, 1)
        self.b.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)))


class Compiled(nn.Module):
    """A part that was wrapped by torch.compile."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (8 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torch.compile(nn.Sequential(conv(3, 8), conv(8, 6)), backend="eager"), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class FunctionalConv(nn.Module):
    """`F.conv2d(x, self.weight)`: a weight outside of any conv module."""

    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8) + 100 * (8 * 6 * 9 + 2 * 6) + 100 * 6 * 4)
    after = (
        {"a.0": [7], "weight": [0, 1]},
        2 * (144 * (3 * 7 * 9 + 2 * 7) + 100 * (7 * 4 * 9 + 2 * 4) + 100 * 4 * 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.a, self.weight = conv(3, 8), nn.Parameter(torch.randn(6, 8, 3, 3) / 9)
        self.bn, self.head = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(F.conv2d(self.a(x), self.weight))))


class AuxiliaryHead(nn.Module):
    """A second head that exists in train mode only, and reads the trunk."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (8 * 10 * 9 + 2 * 10) + 10 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.aux = conv(3, 8), conv(8, 10), nn.Conv2d(10, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a = self.a(x)
        out = self.head(self.b(a))
        return (out, self.aux(a)) if self.training else out


class Literal(nn.Module):
    """A size written into forward: the trace can't see it, the preflight can."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (8 * 6 * 9 + 2 * 6) + (6 * 9 * 9 + 2 * 9) + 9 * 4)
    stays = "b.0 (6 channels): forward can't follow a cut"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 9), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        x = x.view(x.shape[0], 6, -1).view(x.shape[0], 6, 12, 12)
        return self.head(self.c(x))


class Dilated(nn.Sequential):
    """A conv with holes, which keeps the size with twice the padding."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (8 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 6, dilation=2, padding=2), nn.Conv2d(6, 4, 1))


class OneDimension(nn.Sequential):
    """Convs over a sequence."""

    shapes = ((2, 3, 20),)
    flops = 2 * (16 * (3 * 8 * 5 + 2 * 8) + 6 * 8 * 6 * 3 + 6 * 6 * 4)  # 16 positions, 8 after pooling, 6

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv1d(3, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(8, 6, 3), nn.GELU(), nn.Conv1d(6, 4, 1)),
        )


class ThreeDimensions(nn.Sequential):
    """Convs over a volume."""

    shapes = ((2, 3, 6, 6, 6),)
    flops = 2 * (216 * (3 * 6 * 27 + 2 * 6) + 8 * 6 * 8 * 27 + 8 * 8 * 4)  # 6x6x6 positions, then 2x2x2

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU()),
            *(nn.Conv3d(6, 8, 3, stride=2), nn.GELU(), nn.Conv3d(8, 4, 1)),
        )


class GroupNorm(nn.Sequential):
    """Statistics over pairs of channels. FLOPs: 5 per element of the norm."""

    flops = 2 * 144 * ((3 * 8 * 9 + 5 * 8) + (8 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        first = nn.Conv2d(3, 8, 3, padding=1)
        super().__init__(first, nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 6), nn.Conv2d(6, 4, 1))


class ConvNeXt(nn.Module):
    """Layer norm over channels that come last, an MLP, and layer scale on the way back to the stream."""

    flops = 2 * 36 * (3 * 8 * 4 + 8 * 9 + 5 * 8 + 8 * 16 + 16 * 8 + 8 * 4)  # stem, depthwise, norm, MLP, head
    after = {"up": range(6)}, 2 * 36 * (3 * 8 * 4 + 8 * 9 + 5 * 8 + 8 * 10 + 10 * 8 + 8 * 4)
    stays = "layer_norm"

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale, self.head = nn.Parameter(torch.rand(8) + 0.5), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return self.head(x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2))


class StandardizedConv2d(nn.Conv2d):
    """A conv whose filters are standardised in every forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, self.stride, self.padding)


class WeightStandardized(nn.Sequential):
    """A weight that is computed in forward, every filter from all of its inputs."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + (8 * 10 * 9 + 2 * 10) + (10 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        standardized = nn.Sequential(StandardizedConv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU())
        super().__init__(conv(3, 8), standardized, conv(10, 6), nn.Conv2d(6, 4, 1))


class WeightNorm(nn.Sequential):
    """A weight that is computed by a parametrization: norm times direction."""

    flops = 2 * 144 * ((3 * 8 * 9 + 2 * 8) + 8 * 10 * 9 + (10 * 6 * 9 + 2 * 6) + 6 * 4)

    def __init__(self) -> None:
        normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 10, 3, padding=1))
        super().__init__(conv(3, 8), normed, nn.ReLU(), conv(10, 6), nn.Conv2d(6, 4, 1))


class Attention(nn.Module):
    """A transformer block of two heads on 9 patches; the MLP inside may shrink."""

    flops = 2 * (
        9 * 3 * 8 * 16
        + 9 * (5 * 8 + 8 * 24 + 2 * 9 * 4 + 2 * 9 * 4 + 8 * 8)  # norm, projections in, scores, values, projection out
        + 9 * (5 * 8 + 8 * 16 + 16 * 8)  # norm, MLP
        + 8 * 4
    )  # fmt: skip
    after = {"up": [0, 2, 4, 6]}, flops - 2 * 9 * (8 * 4 + 4 * 8)
    stays = "mixes channels"

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm1, self.norm2, self.head = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm1(x)
        x = x + self.attention(y, y, y)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class Embedding(nn.Module):
    """Tokens, and a head that shares its weight with their embedding."""

    shapes, tokens = ((2, 7),), 20
    flops = 2 * 7 * (6 * 8 * 3 + 8 * 6 + 6 * 20)
    after = {"mix": [0, 3]}, 2 * 7 * (6 * 6 * 3 + 6 * 6 + 6 * 20)
    stays = "embedding"

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.back = nn.Embedding(20, 6), nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 6, 1)
        self.head = nn.Linear(6, 20)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.back(F.relu(self.mix(self.embed(x).transpose(1, 2))))
        return self.head(x.transpose(1, 2))


NETS = [
    Chain, Residual, ConcatTwice, Concat, ConcatOfPositions, UNet, Mask, ChannelScale, SqueezeExcite, Depthwise,
    Grouped, GroupedBetweenStreams, ChannelShuffle, NativeShuffle, Chunk, UnevenSplit, PixelShuffle, FlattenLinear,
    PooledLinear, ViewLinear, Reused, Tied, ReturnedAndUsed, DictOutput, TupleOutput, SeveralInputs, LargeBias,
    LearnedSlopes, Transposed, OptionA, Untrained, Compiled, FunctionalConv, AuxiliaryHead, Literal, Dilated,
    OneDimension, ThreeDimensions, GroupNorm, ConvNeXt, WeightStandardized, WeightNorm, Attention, Embedding,
]  # fmt: skip


def inputs(net: nn.Module, seed: int = 0) -> tuple[Tensor, ...]:
    """The example input of a net: random numbers, or tokens."""
    random = torch.Generator().manual_seed(seed)
    shapes, tokens = getattr(net, "shapes", ((2, 3, 12, 12),)), getattr(net, "tokens", None)
    if tokens is not None:
        return tuple(torch.randint(tokens, shape, generator=random) for shape in shapes)
    return tuple(torch.randn(shape, generator=random) for shape in shapes)


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Large random scales, biases and statistics of norms, so that nothing hides a wrong cut."""
    random = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
            module.weight.data.copy_(torch.randn(module.weight.shape, generator=random))
            module.bias.data.add_(torch.randn(module.bias.shape, generator=random))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=random))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return net


class Blocks(nn.Module):
    """Torchvision's own blocks, with and without projection, on a stem of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        down = nn.Sequential(nn.Conv2d(8, 16, 1, 2), nn.BatchNorm2d(16))
        self.stem, self.a, self.b = conv(3, 8), BasicBlock(8, 8), BasicBlock(8, 16, 2, down)
        self.c, self.head = Bottleneck(16, 4), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(self.stem(x)))))
