"""Build ResNet-20 and ResNet-56 for 32x32 images (He et al., arXiv 1512.03385, section 4.2), option-A shortcuts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Add two 3x3 convs to a shortcut.

    Where the size changes, the shortcut takes every second pixel and pads channels with zeros.

    Args:
        channels_in: of the input.
        channels_out: of the output; as many as go in, or twice as many.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.pad = (channels_out - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, channels_out, height / stride, width / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class ResNetCIFAR(nn.Module):
    """Classify by three stages of blocks with 16, 32 and 64 channels.

    Args:
        blocks: per stage; the network has 6 times as many layers, and 2 more.
        num_classes: number of classes.
        channels: of the input images.
    """

    def __init__(self, blocks: int, num_classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(channels_in, channels_out, stride)
        return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores of images of shape (N, channels, height, width)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def resnet20(num_classes: int = 10, channels: int = 3) -> ResNetCIFAR:
    """Make a ResNet-20 with random weights.

    Args:
        num_classes: number of classes.
        channels: of the input images.
    """
    return ResNetCIFAR(3, num_classes, channels)


def resnet56(num_classes: int = 10, channels: int = 3) -> ResNetCIFAR:
    """Make a ResNet-56 with random weights.

    Args:
        num_classes: number of classes.
        channels: of the input images.
    """
    return ResNetCIFAR(9, num_classes, channels)
