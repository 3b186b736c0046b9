"""Replace a residual branch that is removed by the constant per channel that it still adds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gdp.graph import ResidualBranch
from gdp.utils import CONV, get_module


class Constant(nn.Module):
    """Return a constant per channel at every position, in place of a conv or linear of a removed branch.

    The last layer of the branch becomes what the branch adds; all others make one channel of zeros.

    Args:
        layer: the conv or linear.
        bias: the constant, shape (channels,); None for one channel of zeros.

    Attributes:
        bias: as given.
        flat: whether the layer was a linear.
        window: reach of the kernel, padding on both sides and stride per spatial dimension of a conv, in positions.
    """

    def __init__(self, layer: Any, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias
        self.flat = isinstance(layer, nn.Linear)
        self.window: list[tuple[int, int, int]] = []
        if not self.flat:
            reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            same = isinstance(layer.padding, str)
            pads = [r - 1 if layer.padding == "same" else 0 for r in reach] if same else [2 * p for p in layer.padding]
            self.window = list(zip(reach, pads, layer.stride, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return the constant at every position of what the layer would have made.

        Args:
            x: shape (..., channels) in place of a linear, ([batch,] channels, *positions) in place of a conv.
        """
        value = x.new_zeros(1) if self.bias is None else self.bias.to(x.dtype)
        if self.flat:
            return value.expand(*x.shape[:-1], value.shape[0]).clone()
        sizes = [
            (size + pad - reach) // stride + 1
            for size, (reach, pad, stride) in zip(x.shape[-len(self.window) :], self.window, strict=True)
        ]
        batch = x.shape[: x.dim() - len(self.window) - 1]
        return value.view(-1, *[1] * len(sizes)).expand(*batch, value.shape[0], *sizes).clone()

    def extra_repr(self) -> str:
        """Return the number of channels, for `print`."""
        return f"channels={1 if self.bias is None else len(self.bias)}"


@torch.no_grad()
def replace_branch_with_constant(model: nn.Module, branch: ResidualBranch) -> Callable[[], None]:
    """Put a constant in place of a branch whose last layer reads zeros; return what puts the branch back.

    The constant takes the place of the bias of the norm, or of the last layer: the parameter keeps its identity.

    Args:
        model: the network.
        branch: one of its residual branches.
    """
    # what the branch adds: the bias of the last layer, passed through the norm
    last: Any = get_module(model, branch.last_layer)
    norm: Any = get_module(model, branch.norm) if branch.norm else None
    bias = nn.Parameter(last.weight.new_zeros(last.weight.shape[0])) if last.bias is None else last.bias
    value = bias.double()
    if norm is not None:  # what a conv of zeros adds through its norm is the bias of the two when fused
        statistics = norm.running_mean.double(), norm.running_var.double()
        scale, shift = (None if p is None else p.double() for p in (norm.weight, norm.bias))
        _, value = fuse_conv_bn_weights(last.weight.double(), value, *statistics, norm.eps, scale, shift)
        bias = bias if norm.bias is None else norm.bias

    # modules in place of those of the branch
    new: dict[nn.Module, nn.Module] = {last: Constant(last, bias)}
    if norm is not None:
        new[norm] = nn.Identity()
    for layer in (get_module(model, name) for name in branch.inner_layers):
        new[layer] = Constant(layer, None) if isinstance(layer, CONV | nn.Linear) else nn.Identity()

    # put them in, under every name that a module has
    with ExitStack() as undo:
        undo.callback(setattr, bias, "data", bias.data)
        bias.data = value.to(bias)
        for name, held in list(model.named_modules(remove_duplicate=False)):
            if held in new:
                parent, _, child = name.rpartition(".")
                holder = model.get_submodule(parent)
                undo.callback(setattr, holder, child, held)
                setattr(holder, child, new[held].train(held.training))
        return undo.pop_all().close
