"""Replace batch norm by an operator of shapes alone while a network is exported, which makes the export faster.

torch.export works out the shapes of a batch norm by decomposing it into a dozen operators, which takes half of the
time of exporting a CNN. Here only the shape of the result matters, and that is the shape of the input.
"""

from __future__ import annotations

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


class BatchNormShapeMode(TorchFunctionMode):
    """Turn `F.batch_norm` into the operator `gdp::batch_norm`, which has no values and changes no statistics."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


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
