"""TODO."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GateFunction = Callable[[Tensor, float], Tensor]  # a gate's value, of its x and the temperature


def polar_gate(x: Tensor, eps: float) -> Tensor:
    """The polar gate of GDP, `x^2 / (x^2 + eps)`, scaled by `1 + eps` so that x = 1 is exactly open.

    The factor belongs to the following conv anyway, which absorbs it; with it, inserting gates changes nothing.
    0 is closed and a fixed point (the slope there is 0), the slope peaks at sqrt(eps / 3) and vanishes for large x.

    >>> polar(torch.tensor([0.0, 1.0]), 0.1).tolist()
    [0.0, 1.0]
    """
    square = x * x
    return torch.where(x >= 1, 1.0, (1 + eps) * square / (square + eps))
