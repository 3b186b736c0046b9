"""StripeConv2d: a conv that learns which of its stripes, filter by filter, it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.layers.checks import check_not_negative, conv_options

THRESHOLD = 0.01  # entries of a skeleton that are smaller than this are set to 0


class StripeConv2d(nn.Conv2d):
    """Convolve with filters whose stripes are scaled one by one: `W * FS`, with a filter skeleton FS.

    A stripe is what a filter has at one kernel position: 1 x 1 x in_channels weights. Stripe-wise pruning (SWP; Meng et
    al., "Pruning Filter in Filter", NeurIPS 2020) learns FS, shape (filters, height, width), beside the weights. It
    begins with ones and has an L1 penalty of 1e-5; entries below 0.01 are set to 0 every step (`gdp.LayersCallback`
    does both). When training is over, `gdp.layers.prune_stripes` removes the stripes that are at 0.

    gdp prunes the channels of such a layer as those of any conv.

    Args:
        in_channels: channels that are read.
        out_channels: filters.
        kernel_size: one number, or height and width.
        **options: stride, padding, dilation, bias, padding_mode, device and dtype, as those of nn.Conv2d.

    Attributes:
        skeleton: FS.

    Raises:
        GDPError: groups are asked for.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], **options: Any) -> None:
        if options.get("groups", 1) != 1:
            raise GDPError("StripeConv2d has no groups: the stripes of a grouped conv are left alone.")
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.skeleton = nn.Parameter(self.weight.new_ones(out_channels, *self.kernel_size))

    @classmethod
    def of(cls, conv: nn.Conv2d) -> StripeConv2d:
        """Return a layer that computes what a conv does, with the very Parameters of the conv.

        Args:
            conv: without groups; it is left as it was.
        """
        size = conv.kernel_size
        layer = cls(conv.in_channels, conv.out_channels, (size[0], size[1]), **conv_options(conv))
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the conv of the input with `W * FS`.

        Args:
            x: shape (N, in_channels, height, width), or without N.
        """
        made: Tensor = self._conv_forward(x, self.weight * self.skeleton[:, None], self.bias)
        return made

    def close(self, threshold: float = THRESHOLD) -> None:
        """Set the entries of the skeleton to 0 that are smaller than a threshold.

        Args:
            threshold: of their absolute values.

        Raises:
            GDPError: it is negative, or no finite number.
        """
        check_not_negative("threshold", threshold)
        with torch.no_grad():
            self.skeleton.masked_fill_(self.skeleton.abs() < threshold, 0)

    def fold(self) -> nn.Conv2d:
        """Return a plain conv that computes the same, with the filters `W * FS`."""
        size = self.kernel_size
        conv = nn.Conv2d(self.in_channels, self.out_channels, (size[0], size[1]), **conv_options(self))
        with torch.no_grad():
            conv.weight.copy_(self.weight * self.skeleton[:, None])
            if conv.bias is not None and self.bias is not None:
                conv.bias.copy_(self.bias)
        return conv.train(self.training)
