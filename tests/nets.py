"""Tiny networks, each named for what makes it hard to prune. All take images of shape (n, 3, 12, 12)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(i: int, o: int, k: int = 3, **kw) -> nn.Sequential:
    kw.setdefault("padding", k // 2)
    return nn.Sequential(nn.Conv2d(i, o, k, **kw), nn.BatchNorm2d(o), nn.ReLU())


class Chain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 12, stride=2), nn.Conv2d(12, 5, 1))


class Residual(nn.Module):
    """Two blocks on one stream, the second with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), conv(8, 6), nn.Conv2d(6, 8, 3, padding=1)
        self.c, self.down, self.head = conv(8, 10), nn.Conv2d(8, 10, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(self.a(x))
        return self.head(F.relu(self.c(x) + self.down(x)))


class Concat(nn.Module):
    """A U-Net skip, the same tensor twice, and a concat of a concat."""

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


class Depthwise(nn.Module):
    """MobileNet block, and a depthwise conv with two filters per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = conv(3, 10), conv(10, 10, groups=10)
        self.wide, self.head = nn.Conv2d(10, 20, 3, groups=10), nn.Conv2d(20, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.hardswish(self.wide(self.depth(self.expand(x)))))


class Grouped(nn.Module):
    """ResNeXt block: the grouped conv sits between two residual streams."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 12), conv(12, 12, 1), conv(12, 16, groups=4)
        self.c, self.head = nn.Conv2d(16, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.c(self.b(self.a(x))))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc1, self.fc2 = conv(3, 10), nn.Conv2d(10, 6, 1), nn.Conv2d(6, 10, 1)
        self.head = nn.Conv2d(10, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        s = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return self.head(x * torch.sigmoid(s))


class ChannelShuffle(nn.Module):
    """Two branches, concatenated and shuffled by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(3, 8), conv(16, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.c(x))


class Chunk(nn.Module):
    """C2f of YOLOv8: the first half goes by, the second is worked on."""

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

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 10), conv(4, 8), conv(6, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).split([4, 6], 1)
        return self.head(self.b(left) * self.c(right))


class FlattenLinear(nn.Module):
    """Flatten without pooling: every channel is 9 columns of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6, stride=2), conv(6, 8, stride=2)
        self.fc1, self.bn, self.fc2 = nn.Linear(72, 11), nn.BatchNorm1d(11), nn.Linear(11, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        return self.fc2(F.relu(self.bn(self.fc1(x.view(x.size(0), -1)))))


class PixelShuffle(nn.Module):
    """Super resolution: four channels become one, and later one becomes four."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 24), conv(6, 6), conv(24, 8), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.pixel_shuffle(self.a(x), 2))
        return F.pixel_shuffle(self.head(self.c(F.pixel_unshuffle(x, 2))), 2)


class Transposed(nn.Module):
    """Transposed convs, plain, grouped and depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up = conv(3, 8, stride=2), nn.ConvTranspose2d(8, 12, 2, 2)
        self.grouped, self.bn = nn.ConvTranspose2d(12, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.depth, self.head = nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.ConvTranspose2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.depth(F.relu(self.bn(self.grouped(F.relu(self.up(self.a(x))))))))


class Reused(nn.Module):
    """One module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shared(self.shared(self.stem(x))))


class Tied(nn.Module):
    """Two convs that hold the same Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(self.stem(x))))))


class MaskAndScale(nn.Module):
    """One channel broadcast over many, a learned scale per channel, PReLU, and a functional conv."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mask = conv(3, 10), nn.Conv2d(3, 1, 3, padding=1)
        self.scale, self.prelu = nn.Parameter(torch.rand(10, 1, 1) + 0.5), nn.PReLU(10)
        self.weight = nn.Parameter(torch.randn(6, 10, 3, 3) / 9)
        self.bn, self.head = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.scale * self.a(x)) * torch.sigmoid(self.mask(x))
        return self.head(F.relu(self.bn(F.conv2d(y, self.weight))))


class OptionA(nn.Module):
    """Shortcut of the CIFAR ResNets: every second pixel, zero channels on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            conv(3, 8),
            conv(8, 9, stride=2),
            nn.Conv2d(9, 16, 1),
            nn.Conv2d(16, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.b(self.a(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.head(x)


class AuxiliaryHead(nn.Module):
    """A second head that exists in train mode only, and reads the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.aux = conv(3, 8), conv(8, 10), nn.Conv2d(10, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a = self.a(x)
        out = self.head(self.b(a))
        return (out, self.aux(a)) if self.training else out


class DictOutput(nn.Module):
    """Outputs in a dict; one of them is an inner feature, which must keep its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 9), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        feature = self.b(self.a(x))
        return {"feature": feature, "out": self.head(self.c(feature))}


class Literal(nn.Module):
    """A size written into forward: the trace can't see it, the preflight can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 9), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        x = x.view(x.shape[0], 6, -1).view(x.shape[0], 6, 12, 12)
        return self.head(self.c(x))


NETS = [
    Chain, Residual, Concat, Depthwise, Grouped, SqueezeExcite, ChannelShuffle, Chunk, UnevenSplit, FlattenLinear,
    PixelShuffle, Transposed, Reused, Tied, MaskAndScale, OptionA, AuxiliaryHead, DictOutput,
]  # fmt: skip


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Large random BN scales, biases and statistics, so that nothing hides a wrong cut."""
    random = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=random))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return net
