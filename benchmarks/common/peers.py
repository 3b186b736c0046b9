"""What Torch-Pruning has to be told of a network."""

from __future__ import annotations

from torch import nn

from lightning_modules.resnet_cifar import ResNetCIFAR


def ignored_layers(net: nn.Module, classes: int) -> list[nn.Module]:
    """Return the layers that Torch-Pruning has to leave alone.

    These are the class scores and, in resnet20 and resnet56, the residual streams: after it prunes there, their padded
    shortcuts no longer fit.

    Args:
        net: the network.
        classes: outputs of a linear layer that makes class scores.
    """
    layers = dict(net.named_modules())
    scores = [m for m in layers.values() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not isinstance(net, ResNetCIFAR):
        return scores
    stream = [m for name, m in layers.items() if name.startswith("layer") and name.endswith("conv2")]
    return [*scores, layers["conv1"], *stream]
