"""Replace functions while a network is exported: batch norm, for speed, and `.data`, which torch.export can't see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

torch.library.define(
    "gdp::batch_norm",
    "(Tensor input, Tensor? running_mean, Tensor? running_var, Tensor? weight, Tensor? bias, bool training) -> Tensor",
)


def _shape_of_batch_norm(x: Tensor, *_: Any) -> Tensor:
    """Return an empty tensor of the shape of the input."""
    return torch.empty_like(x)


torch.library.register_fake("gdp::batch_norm", _shape_of_batch_norm)


class ExportMode(TorchFunctionMode):
    """Replace functions while a network is exported.

    - `F.batch_norm` becomes the operator `gdp::batch_norm`, which has no values and changes no statistics. torch.export
      works out the shapes of a batch norm by decomposing it into a dozen operators, which takes half of the time of
      exporting a CNN; here only the shape of the result matters, and that is the shape of the input.
    - Reading `x.data` becomes `x.detach()`, which is the same, and `x.data = y` becomes `x.copy_(y)`. A tensor that is
      read as `.data` has no history for torch.export.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # noqa: A002  the arguments are those of F.batch_norm
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Call `gdp::batch_norm` with the arguments of `F.batch_norm`, of which shapes do not depend on the last two."""
    return torch.ops.gdp.batch_norm(input, running_mean, running_var, weight, bias, training)


def _read_data(tensor: Tensor, *_: Any) -> Tensor:
    """Return what `tensor.data` is: the same numbers without a history."""
    return tensor.detach()


def _overwrite_data(tensor: Tensor, value: Tensor) -> None:
    """Write the numbers of one tensor into another.

    Args:
        tensor: to be written into.
        value: of the same shape.

    Raises:
        RuntimeError: its shape is another one, so `tensor` would have a new shape.
    """
    if tensor.shape != value.shape:
        raise RuntimeError(f"`.data` of shape {tuple(tensor.shape)} is set to a tensor of shape {tuple(value.shape)}")
    tensor.detach().copy_(value)


_DATA: Any = torch.Tensor.data
_REPLACED: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    _DATA.__get__: _read_data,
    _DATA.__set__: _overwrite_data,
}
