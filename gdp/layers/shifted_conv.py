"""ShiftedConv2d: the stripes of a conv that are left, as 1x1 convs of shifted inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gdp.layers.checks import OPTIONS
from gdp.layers.stripe_conv import StripeConv2d

Position = tuple[int, int]  # row and column in the kernel


class ShiftedConv2d(nn.Module):
    """Compute what a conv does that has lost stripes: per kernel position a 1x1 conv of the filters that have one.

    The inference of SWP (Meng et al., NeurIPS 2020): every 1x1 conv reads the input as the kernel position sees it,
    shifted, and what it makes is added to the channels of its filters. Own: how it is done. The input is shifted before
    each conv, so only positions of the output are computed, whatever the stride; and what a conv makes is brought to
    the places of its filters by a lookup and then added, since index_add is not exported to ONNX correctly.

    Multiply-adds are stripes x in_channels x positions of the output, and fvcore counts them so (lookups and sums count
    nothing, as the sums inside of a conv do not). With all stripes there it would be those of the plain conv. A small
    number is not a short time: many small convs take longer than one large one unless most stripes are gone.

    gdp prunes the channels that it reads. Those that it makes stay, since they are looked up at fixed positions, unless
    every kernel position that is left has all filters.

    Args:
        conv: whose place is taken; stride, padding, dilation, padding mode and whether it has a bias are read.
        counts: kernel position -> how many filters have a stripe there; positions without any are left out.

    Attributes:
        stripes: the 1x1 convs, by kernel position: "row_column".
    """

    def __init__(self, conv: nn.Conv2d, counts: Mapping[Position, int]) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        self.options: dict[str, Any] = {name: getattr(conv, name) for name in OPTIONS}
        self.kernel_size = conv.kernel_size
        self.stripes = nn.ModuleDict()
        for (row, column), count in counts.items():
            key = f"{row}_{column}"
            self.stripes[key] = nn.Conv2d(conv.in_channels, count, 1, bias=False, **placed)
            if count < conv.out_channels:  # else every filter is in its place
                place = torch.arange(conv.out_channels, device=conv.weight.device).clamp_max(count)
                self.register_buffer(f"place_{key}", place)
        self.bias = None if conv.bias is None else nn.Parameter(torch.zeros_like(conv.bias))

    @classmethod
    def of(cls, layer: StripeConv2d) -> ShiftedConv2d:
        """Return a layer that computes what a StripeConv2d does, without the stripes whose skeleton is 0.

        One stripe, of zeros, is kept where all are at 0.

        Args:
            layer: in training form; it is left as it was.
        """
        weight, kept = layer.fold().weight, layer.skeleton.detach() != 0
        if not bool(kept.any()):
            kept[0, 0, 0] = True
        positions = [(int(r), int(c)) for r, c in torch.nonzero(kept.any(0)).tolist()]
        shifted = cls(layer, {(r, c): int(kept[:, r, c].sum()) for r, c in positions})
        with torch.no_grad():
            for row, column in positions:
                own = kept[:, row, column]
                conv, place = shifted.at(row, column)
                if place is not None:
                    place.copy_(torch.where(own, own.cumsum(0) - 1, conv.out_channels))
                conv.weight.copy_(weight[own, :, row, column, None, None])
            if shifted.bias is not None and layer.bias is not None:
                shifted.bias.copy_(layer.bias)
        return shifted.train(layer.training)

    def at(self, row: int, column: int) -> tuple[nn.Conv2d, Tensor | None]:
        """Return the 1x1 conv of a kernel position, and which of its filters each channel of the layer gets.

        The filter after the last one stands for none. Where all filters are there, nothing needs to be looked up: None.

        Args:
            row: of the kernel.
            column: of the kernel.
        """
        conv = self.stripes[f"{row}_{column}"]
        assert isinstance(conv, nn.Conv2d)
        return conv, self._buffers.get(f"place_{row}_{column}")

    @property
    def counts(self) -> dict[Position, int]:
        """How many filters have a stripe at every kernel position that has any."""
        positions = [key.split("_") for key in self.stripes]
        return {(int(r), int(c)): self.at(int(r), int(c))[0].out_channels for r, c in positions}

    @property
    def out_channels(self) -> int:
        """Channels that are made."""
        conv, place = self.at(*next(iter(self.counts)))
        return conv.out_channels if place is None else len(place)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the conv gives whose stripes these are.

        Args:
            x: shape (N, in_channels, height, width), or without N.
        """
        (sy, sx), (dy, dx), (ky, kx) = self.options["stride"], self.options["dilation"], self.kernel_size
        x = self._padded(x)
        height, width = (x.shape[-2] - dy * (ky - 1) - 1) // sy + 1, (x.shape[-1] - dx * (kx - 1) - 1) // sx + 1
        out: Tensor | None = None
        for row, column in self.counts:
            conv, place = self.at(row, column)
            top, left = row * dy, column * dx
            made = conv(x[..., top : top + (height - 1) * sy + 1 : sy, left : left + (width - 1) * sx + 1 : sx])
            if place is not None:
                with_none = nn.functional.pad(made, (0, 0, 0, 0, 0, 1))
                made = with_none.index_select(x.dim() - 3, place)
            out = made if out is None else out + made
        assert out is not None
        return out if self.bias is None else out + self.bias[:, None, None].to(out.dtype)

    def _padded(self, x: Tensor) -> Tensor:
        """Return the input with what the conv pads it by.

        Args:
            x: the input.
        """
        padding, mode = self.options["padding"], self.options["padding_mode"]
        if padding == "valid":
            return x
        if padding == "same":
            sizes = zip(reversed(self.options["dilation"]), reversed(self.kernel_size), strict=True)
            total = [d * (k - 1) for d, k in sizes]
            amounts = [side for n in total for side in (n // 2, n - n // 2)]
        else:
            amounts = [side for n in reversed(padding) for side in (n, n)]
        if not any(amounts):
            return x
        return nn.functional.pad(x, amounts, mode="constant" if mode == "zeros" else mode)

    def fold(self) -> nn.Conv2d:
        """Return a plain conv that computes the same to float rounding; stripes that are gone are zeros in it."""
        convs = {position: self.at(*position) for position in self.counts}
        read = next(conv.in_channels for conv, _ in convs.values())
        size = self.kernel_size
        weight = next(iter(self.stripes.parameters()))
        placed: dict[str, Any] = {"bias": self.bias is not None, "device": weight.device, "dtype": weight.dtype}
        plain = nn.Conv2d(read, self.out_channels, (size[0], size[1]), **self.options, **placed)
        with torch.no_grad():
            plain.weight.zero_()
            for (row, column), (conv, place) in convs.items():
                with_none = nn.functional.pad(conv.weight.flatten(1), (0, 0, 0, 1))
                plain.weight[:, :, row, column] = with_none[:-1] if place is None else with_none[place]
            if plain.bias is not None and self.bias is not None:
                plain.bias.copy_(self.bias)
        return plain.train(self.training)
