"""LinearConv2d: a conv of which a part of the filters are linear combinations of the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.layers.checks import check_fraction, conv_options
from gdp.layers.factors import factorize

INIT_BOUND = 0.1  # of C in the public code


class LinearConv2d(nn.Module):
    """Compute what a conv does whose filters are `cat(B, C B)`: primary filters B, and combinations of them.

    LinearConv (Kahatapitiya and Rodrigo, arXiv 1907.11432). With half of the filters primary, a layer of n filters that
    reads m channels has n/2 m k^2 + n^2/4 weights instead of n m k^2. Hyper-parameters of the public code: half of the
    filters are primary, C begins uniform in [-0.1, 0.1], and `gdp.LayersCallback` adds the correlation loss.

    The paper makes the filters first and then convolves with all of them, so it saves weights and no FLOPs at
    inference; `fold` gives that conv. Own: this layer convolves with B and applies C to the result, as a 1x1 conv.
    Convolution is linear, so it is the same function, and B and C are plain convs, whose channels gdp prunes like any
    others. Not folded, it needs as many multiply-adds per position as it has weights, and memory for half as many
    activations again.

    Args:
        in_channels: m.
        out_channels: n, at least 2.
        kernel_size: k, or height and width.
        ratio: fraction of the filters that are primary, in (0, 1).
        **options: stride, padding, dilation, bias, padding_mode, device and dtype, as those of nn.Conv2d.

    Attributes:
        primary: the conv with B.
        coefficients: the 1x1 conv with C.

    Raises:
        GDPError: the ratio is not in (0, 1), there are fewer than 2 filters, or groups are asked for.

    >>> layer = LinearConv2d(16, 32, 3, padding=1, bias=False)
    >>> sum(p.numel() for p in layer.parameters()), layer.fold().weight.numel()
    (2560, 4608)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        ratio: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__()
        if options.get("groups", 1) != 1:
            raise GDPError("LinearConv2d has no groups: filters of different groups read different channels.")
        first = primary_filters(out_channels, ratio)
        placed = {key: options[key] for key in ("bias", "device", "dtype") if key in options}
        self.primary = nn.Conv2d(in_channels, first, kernel_size, **options)
        self.coefficients = nn.Conv2d(first, out_channels - first, 1, **placed)
        nn.init.uniform_(self.coefficients.weight, -INIT_BOUND, INIT_BOUND)

    @classmethod
    def shaped_like(cls, conv: nn.Conv2d, ratio: float) -> LinearConv2d:
        """Return a layer with new weights that can take the place of a conv.

        Args:
            conv: without groups.
            ratio: fraction of the filters that are primary, in (0, 1).
        """
        size = conv.kernel_size
        return cls(conv.in_channels, conv.out_channels, (size[0], size[1]), ratio, **conv_options(conv))

    @classmethod
    def of(cls, conv: nn.Conv2d, ratio: float = 0.5) -> LinearConv2d:
        """Return a layer that computes nearly what a conv does: B and C by `factorize`, the bias as it is.

        Args:
            conv: without groups; it is left as it was.
            ratio: fraction of the filters that are primary, in (0, 1).
        """
        layer = cls.shaped_like(conv, ratio)
        b, c = factorize(conv.weight.flatten(1), layer.primary.out_channels)
        with torch.no_grad():
            layer.primary.weight.copy_(b.view_as(layer.primary.weight))
            layer.coefficients.weight.copy_(c[:, :, None, None])
            if conv.bias is not None:
                first, others = conv.bias.double().split([len(b), len(c)])
                _bias(layer.primary).copy_(first)
                _bias(layer.coefficients).copy_(others - c @ first)
        return layer.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the conv with the filters `cat(B, C B)` gives.

        Args:
            x: shape (N, in_channels, height, width), or without N.
        """
        made = self.primary(x)
        return torch.cat([made, self.coefficients(made)], -3)

    @property
    def in_channels(self) -> int:
        """Channels that are read."""
        return self.primary.in_channels

    @property
    def out_channels(self) -> int:
        """Channels that are made."""
        return self.primary.out_channels + self.coefficients.out_channels

    @property
    def weight(self) -> Tensor:
        """The filters `cat(B, C B)`, shape (out_channels, in_channels, height, width)."""
        b, c = self.primary.weight, self.coefficients.weight.flatten(1)
        return torch.cat([b, (c @ b.flatten(1)).view(-1, *b.shape[1:])])

    @property
    def bias(self) -> Tensor | None:
        """What is added to the channels that are made, shape (out_channels,); or None."""
        if self.primary.bias is None:
            return None
        first, others, c = self.primary.bias, _bias(self.coefficients), self.coefficients.weight.flatten(1)
        return torch.cat([first, others + c @ first])

    def fold(self) -> nn.Conv2d:
        """Return a plain conv that computes the same to float rounding, with the filters `cat(B, C B)`."""
        size = self.primary.kernel_size
        conv = nn.Conv2d(self.in_channels, self.out_channels, (size[0], size[1]), **conv_options(self.primary))
        with torch.no_grad():
            conv.weight.copy_(self.weight)
            if conv.bias is not None and self.bias is not None:
                conv.bias.copy_(self.bias)
        return conv.train(self.training)


def primary_filters(filters: int, ratio: float) -> int:
    """Return how many filters are primary: the ratio, rounded, and at least one of each kind.

    Args:
        filters: of the layer.
        ratio: fraction of them that is primary.

    Raises:
        GDPError: the ratio is not in (0, 1), or there are fewer than 2 filters.
    """
    check_fraction("ratio", ratio)
    if filters < 2:
        raise GDPError(f"Expected a layer of at least 2 filters, a primary one and a combination, but got {filters}.")
    return min(max(1, round(ratio * filters)), filters - 1)


def correlation_loss(filters: Tensor) -> Tensor:
    """Return `sum |corrcoef(B) - I|` of primary filters (arXiv 1907.11432), which asks them to be uncorrelated.

    A filter without variance correlates with none.

    Args:
        filters: B, one per index of the first dimension.

    Returns:
        A scalar that can be differentiated.

    >>> loss = correlation_loss(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))  # both entries beside the diagonal are -1
    >>> round(loss.item(), 4)
    2.0
    """
    rows = filters.flatten(1).to(torch.promote_types(filters.dtype, torch.float32))
    rows = nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    correlation = rows @ rows.T
    return (correlation - torch.diag(correlation.diagonal())).abs().sum()


def _bias(conv: nn.Conv2d) -> Tensor:
    """Return the bias of a conv that has one."""
    assert conv.bias is not None
    return conv.bias
