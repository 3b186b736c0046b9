"""TODO."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gdp.graph import ResidualBranch
from gdp.tracing.residual_branches import _WINDOW
from gdp.utils import get_module


class Constant(nn.Module):
    """What is left of the convs and linears of a branch that went: a constant per channel at every position.

    The last one holds what the branch adds, as a parameter of shape (channels,); the others make one channel of zeros.
    """

    def __init__(self, layer: Any, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias
        self.flat = isinstance(layer, nn.Linear)
        self.window: list[tuple[int, int, int]] = []  # per spatial dimension: window, padding, stride
        if not self.flat:
            reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            same = isinstance(layer.padding, str)
            pads = [r - 1 if layer.padding == "same" else 0 for r in reach] if same else [2 * p for p in layer.padding]
            self.window = list(zip(reach, pads, layer.stride, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Input of shape (..., channels) or (batch, channels, *positions)."""
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
        return f"channels={1 if self.bias is None else len(self.bias)}"


@torch.no_grad()
def replace_branch_with_constant(model: nn.Module, block: ResidualBranch) -> Callable[[], None]:
    """Put the constant in place of a branch whose last layer reads zeros; return what puts the branch back.

    The constant takes the place of the bias of the norm, or of the last layer: the parameter keeps its identity.
    """
    last: Any = get_module(model, block.last_layer)
    norm: Any = get_module(model, block.norm) if block.norm else None
    zero = last.weight.new_zeros(last.weight.shape[0])
    bias = nn.Parameter(zero) if last.bias is None else last.bias
    value = bias.double()
    if norm is not None:
        spread = (norm.running_var.double() + norm.eps).sqrt()
        scale = 1.0 if norm.weight is None else norm.weight.double()
        value = (value - norm.running_mean.double()) / spread * scale
        value = value if norm.bias is None else value + norm.bias.double()
        bias = bias if norm.bias is None else norm.bias
    new: dict[nn.Module, nn.Module] = {last: Constant(last, bias)}
    if norm is not None:
        new[norm] = nn.Identity()
    for layer in (get_module(model, name) for name in block.inner_layers):
        new[layer] = Constant(layer, None) if isinstance(layer, _WINDOW | nn.Linear) else nn.Identity()
    was = bias.data
    bias.data = value.to(was)
    undo = [partial(setattr, bias, "data", was)]
    for module in list(model.modules()):
        for child, held in module._modules.items():
            if held in new:
                undo.append(partial(module._modules.__setitem__, child, held))
                module._modules[child] = new[held].train(held.training)

    def put_back() -> None:
        for step in undo:
            step()

    return put_back
