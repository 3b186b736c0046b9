"""Networks that use a layer twice, return more than one tensor, or are written in an unusual form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from helpers.networks.building import conv
from torch import Tensor, nn


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
