"""A small residual network for layers of gdp.layers, and skeletons with holes."""

import torch
from torch import Tensor, nn

from gdp.layers import StripeConv2d


class SmallResidual(nn.Module):
    """Four 3x3 convs around a residual stream, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.norm_b = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm_b(self.b(torch.relu(self.a(x)))))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))


def with_holes(net: nn.Module, share: float = 0.5) -> nn.Module:
    """Random skeletons, of which a share is 0."""
    random = torch.Generator().manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, StripeConv2d):
            shape = layer.skeleton.shape
            values, holes = (torch.rand(shape, generator=random) for _ in range(2))
            layer.skeleton.data = (values + 0.5) * (holes >= share)
    return net
