"""What the networks are built of, their example inputs, and numbers that hide no wrong cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(i: int, o: int, k: int = 3, **kw) -> nn.Sequential:
    kw.setdefault("padding", k // 2)
    return nn.Sequential(nn.Conv2d(i, o, k, **kw), nn.BatchNorm2d(o), nn.ReLU())


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
