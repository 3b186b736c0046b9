"""Gate functions: what a channel is multiplied with, from its gate's parameter x and a temperature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GateFunction = Callable[[Tensor, float], Tensor]  # a gate's value, of its x and the temperature


def polar_gate(x: Tensor, eps: float) -> Tensor:
    """Return the gate of GDP, `x^2 / (x^2 + eps)`, scaled by `1 + eps` so that x = 1 is exactly open.

    The factor belongs to the following conv anyway, which absorbs it; with it, inserting gates changes nothing.
    0 is closed and a fixed point (the slope there is 0), the slope peaks at sqrt(eps / 3) and vanishes for large x.

    Args:
        x: parameters of the gates, of any shape, in [0, 1].
        eps: of the smoothed L0 norm, above 0.

    Source: Guo et al., ICCV 2021, arXiv 2109.02220.

    >>> polar_gate(torch.tensor([0.0, 1.0]), 0.1).tolist()
    [0.0, 1.0]
    """
    square = x * x
    return torch.where(x >= 1, 1.0, (1 + eps) * square / (square + eps))


def indicator(x: Tensor, temperature: float) -> Tensor:
    """Return the indicator of DAIS, `sigmoid(alpha / T)` with alpha = 2 x - 1, scaled so that x = 1 is exactly open.

    The scale belongs to the following layer anyway, which absorbs it; with it, inserting gates changes nothing. x = 0
    is exactly closed.

    Args:
        x: parameters of the gates, of any shape, in [0, 1].
        temperature: T, above 0.

    Source: Guan et al., arXiv 2011.02166, equation 7.

    >>> indicator(torch.tensor([0.0, 0.5, 1.0]), 0.02).tolist()
    [0.0, 0.5, 1.0]
    """
    value = torch.sigmoid((2 * x - 1) / temperature) / torch.sigmoid(torch.tensor(1 / temperature))
    return torch.where(x >= 1, 1.0, torch.where(x <= 0, 0.0, value))
