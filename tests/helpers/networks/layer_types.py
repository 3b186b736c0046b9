"""Networks of other layers than plain 2-d convolutions with batch norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from helpers.networks.building import conv
from torch import Tensor, nn


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
