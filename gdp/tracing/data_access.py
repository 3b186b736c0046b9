"""Let torch.export follow `.data`, which it can't see: a tensor that is read so has no history for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DataAccessMode(TorchFunctionMode):
    """Turn reading `x.data` into `x.detach()`, which is the same, and `x.data = y` into `x.copy_(y)`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__self__", None) is not torch.Tensor.data:
            return func(*args, **(kwargs or {}))
        return args[0].detach() if func.__name__ == "__get__" else _overwrite(*args)


def _overwrite(tensor: Tensor, value: Tensor) -> None:
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
