"""The networks of the comparison, for images of 16 to 32 pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import MobileNetV2
from torchvision.models.vgg import make_layers

from lightning_modules.resnet_cifar import resnet20, resnet56

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
# expansion, channels, blocks, stride: those of the paper (arXiv 1801.04381, table 2) with fewer strides
MOBILENET = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]


class VGG(nn.Module):
    """Make VGG-16 with batch norm (arXiv 1409.1556, column D): its convs, an average over all places, a linear layer.

    Args:
        width: what the paper's numbers of channels are multiplied with.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        plan = [v if isinstance(v, str) else int(v * width) for v in VGG16]
        self.features = make_layers(plan, batch_norm=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(int(512 * width), 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


def mobilenet(width: float) -> nn.Module:
    """Make a MobileNetV2 whose first conv keeps the resolution, as usual for small images.

    Args:
        width: what the paper's numbers of channels are multiplied with.
    """
    net = MobileNetV2(num_classes=10, width_mult=width, inverted_residual_setting=MOBILENET, dropout=0.0)
    net.features[0][0].stride = (1, 1)
    return net


NETWORKS = {
    "resnet20": lambda width: resnet20(),
    "resnet56": lambda width: resnet56(),
    "vgg16": VGG,
    "mobilenetv2": mobilenet,
}
