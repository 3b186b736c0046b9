"""Name the base classes of torch's layers, which torch itself keeps private."""

from torch import nn

CONV = nn.modules.conv._ConvNd  # every conv, transposed ones included
NORM = nn.modules.batchnorm._NormBase  # batch and instance norm
