"""The bilinear FLOPs of soft gates `x^2 / (x^2 + eps)`, their derivatives by x, and the multiplier for a budget.

Guo et al., ICCV 2021, arXiv 2109.02220.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gdp.gates import polar_gate
from gdp.methods.context import StepContext

LARGEST = 1e30  # a multiplier with which every gate falls as fast as it may


def x_gradients(x: Tensor, gradient: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
    """Return the derivatives of the loss and of the FLOPs, as a fraction of the dense ones, by x; 0 where x is 0.

    Args:
        x: of every gate, shape (channels of all groups,), float64, on the CPU.
        gradient: `g_c * dL/dg_c` of every channel, of the same kind.
        context: where the run is.
    """
    eps = context.temperature
    slope = torch.where(x > 0, 2 * eps / (x.clamp_min(1e-30) * (x * x + eps)), 0.0)  # d log g / dx
    value = polar_gate(x, eps)
    marginal = context.cost.marginal(_sums(value, context))[context.group_of] / context.cost.dense
    return slope * gradient, slope * value * marginal


def x_of(value: Tensor, eps: float) -> Tensor:
    """Return the x of gates with these values, the inverse of `polar_gate`.

    Args:
        value: of every gate, in [0, 1].
        eps: of the smoothed L0 norm.
    """
    return (eps * value / (1 + eps - value)).sqrt()


def soft_flops(x: Tensor, context: StepContext) -> float:
    """Return the bilinear FLOPs of the sums of gates, as a fraction of the dense FLOPs.

    Args:
        x: of every gate, shape (channels of all groups,), float64, on the CPU.
        context: where the run is.
    """
    return context.cost.expected(_sums(polar_gate(x, context.temperature), context)) / context.cost.dense


def _sums(value: Tensor, context: StepContext) -> Tensor:
    """Return the sum of gates per group, shape (groups,).

    Args:
        value: of every gate, shape (channels of all groups,), float64.
        context: where the run is.
    """
    return torch.zeros(len(context.cost.sizes), dtype=value.dtype).index_add_(0, context.group_of, value)


def solve_multiplier(flops: Callable[[float], float], allowed: float, last: float) -> float:
    """Return the least multiplier, but for a thousandth, with which the moved gates cost no more than is allowed.

    Where gates can't get there in one step, half of what the fastest step would give is aimed at, so that there are
    still gates which fall faster than others.

    Args:
        flops: of the moved gates by multiplier, falling.
        allowed: by the schedule, in the same unit.
        last: the multiplier of the step before, to begin with.
    """
    without = flops(0.0)
    if without <= allowed:
        return 0.0
    aim = max(allowed, (without + flops(LARGEST)) / 2)
    high = max(last, 1e-6)
    while high > 1e-9 and flops(high / 4) <= aim:
        high /= 4
    while flops(high) > aim:
        high *= 4
    low = high / 4
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if flops(middle) <= aim else (middle, high)
    return high
