"""Networks that compute with parameters of their own, several of them in one module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def filters(*shape: int) -> nn.Parameter:
    """Random filters, large enough that the signal does not shrink."""
    return nn.Parameter(torch.randn(shape) / (shape[1] ** 0.5 * 3))


class RawWeights(nn.Module):
    """One module with five filters, one of them transposed."""

    flops = 2 * 144 * (3 * 8 * 9 + 8 * 6 * 9 + 6 * 5 * 9 + 5 * 4 + 8 * 3 * 9)
    after = (
        {"first": [0, 7], "second": [1], "third": [0, 2]},
        2 * 144 * (3 * 6 * 9 + 6 * 5 * 9 + 5 * 3 * 9 + 3 * 4 + 6 * 3 * 9),
    )

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor([0.1]))
        self.first, self.second, self.third = filters(8, 3, 3, 3), filters(6, 8, 3, 3), filters(5, 6, 3, 3)
        self.last, self.back = filters(4, 5, 1, 1), filters(8, 3, 3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = F.conv2d(x, self.first, padding=1)
        a = torch.sign(a) * F.relu(a.abs() - self.threshold)
        b = F.relu(F.conv2d(a, self.second, padding=1))
        c = F.relu(F.conv2d(b, weight=self.third, padding=1))
        return F.conv2d(c, self.last), F.conv_transpose2d(a, self.back, padding=1)


class ListOfWeights(nn.Module):
    """Filters in a ParameterList and in a ParameterDict, which are called by no one."""

    flops = 2 * 144 * (3 * 8 * 9 + 8 * 6 * 9 + 6 * 8) + 2 * (8 * 7 + 7 * 4)
    after = (
        {"convs.0": [3], "convs.1": [0, 1], "tail.up": [6]},
        2 * 144 * (3 * 7 * 9 + 7 * 4 * 9 + 4 * 8) + 2 * (8 * 6 + 6 * 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ParameterList([filters(8, 3, 3, 3), filters(6, 8, 3, 3)])
        self.mix = nn.Conv2d(6, 8, 1)
        self.tail = nn.ParameterDict({"up": filters(7, 8), "down": filters(4, 7)})

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.convs:
            x = F.relu(F.conv2d(x, weight, padding=1))
        x = F.softmax(self.mix(x).mean((2, 3)), dim=1)  # its channels are mixed and stay
        return F.linear(F.relu(F.linear(x, self.tail["up"])), self.tail["down"])
