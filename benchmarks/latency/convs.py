"""The convs of a network, one by one: their shapes, and what they are with fewer outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ConvShape:
    """Describe a 2d conv and the size of its input.

    Attributes:
        ins: input channels.
        outs: output channels.
        kernel: height and width.
        stride: along height and width.
        padding: along height and width, on each side.
        groups: of the conv.
        height: of its input, in pixels.
        width: of its input, in pixels.
    """

    ins: int
    outs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    height: int
    width: int

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        stride = f", stride {self.stride[0]}" if self.stride[0] > 1 else ""
        size = f"{self.kernel[0]}x{self.kernel[1]}"
        return f"{self.ins} to {self.outs}, {size}{stride}{groups}, at {self.height}x{self.width}"

    @property
    def flops(self) -> int:
        """Return the multiply-adds for one image."""
        sizes = zip((self.height, self.width), self.kernel, self.stride, self.padding, strict=True)
        (high, wide) = ((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in sizes)
        return high * wide * self.outs * self.ins // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def widths(self) -> list[int]:
        """Return a quarter, a half, one more than that, three quarters and all of the outputs.

        All but "one more" and "all" are multiples of 8. A conv in groups has as many inputs as outputs and keeps the
        size of its groups.
        """
        unit = self.ins // self.groups if self.groups > 1 else 1
        step = 8 if 8 % unit == 0 else unit
        quarter, half, most = (max(step, round(share * self.outs / step) * step) for share in (0.25, 0.5, 0.75))
        return [quarter, half, half + unit, most, self.outs]

    def narrowed(self, outs: int) -> ConvShape:
        """Return the conv with fewer outputs.

        Args:
            outs: how many are left.
        """
        grouped = {"ins": outs, "groups": outs * self.groups // self.ins} if self.groups > 1 else {}
        return ConvShape(**{**vars(self), "outs": outs, **grouped})

    def module(self) -> nn.Conv2d:
        """Make a conv of this shape with random weights, in eval mode."""
        return nn.Conv2d(
            self.ins, self.outs, self.kernel, self.stride, self.padding, groups=self.groups, bias=False
        ).eval()


def convs(net: nn.Module, size: int) -> dict[ConvShape, list[str]]:
    """Return the different convs of a network, with the names of the layers that have each shape.

    Args:
        net: in eval mode.
        size: side of the images.

    Raises:
        AssertionError: a conv is dilated or has its padding as a word.
    """
    names = {module: name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    found: dict[ConvShape, list[str]] = {}

    def note(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        assert not isinstance(conv.padding, str) and conv.dilation == (1, 1)
        window: Any = (conv.kernel_size, conv.stride, conv.padding)
        height, width = inputs[0].shape[2:]
        shape = ConvShape(conv.in_channels, conv.out_channels, *window, conv.groups, height, width)
        found.setdefault(shape, []).append(names[conv])

    hooks = [conv.register_forward_pre_hook(note) for conv in names]
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return found
