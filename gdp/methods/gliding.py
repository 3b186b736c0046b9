"""Gates that glide to 0 or 1 once a method has chosen: those of GDP (Guo et al., ICCV 2021, arXiv 2109.02220)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import polar_gate
from gdp.methods.base import CLOSED_BELOW, MethodState, PruningMethod
from gdp.methods.context import StepContext

# x falls by this factor while a gate closes: with the last eps, to about that value of the gate
CLOSING_RATIO = 1e-3


@dataclass(frozen=True)
class GlidingGates(PruningMethod):
    """Close gates `x^2 / (x^2 + eps)` step by step until x is exactly 0, or open them again before.

    A method whose only business is a score is a subclass with an `importance`.

    Attributes:
        eps: of the smoothed L0 norm at the beginning and at the end of the window; annealed geometrically.

    Source: the gates are those of GDP (Guo et al., ICCV 2021, arXiv 2109.02220). Own: the way they move.

    Raises:
        GDPError: an option is out of range.
    """

    eps: tuple[float, float] = (0.1, 1e-4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eps[1] <= self.eps[0]:
            raise GDPError(f"Expected 0 < eps end <= eps start, but got {self.eps}.")

    @property
    def temperatures(self) -> tuple[float, float]:
        """The first and the last eps."""
        return self.eps

    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        """Return the polar gate of every x."""
        return polar_gate(gate_param, temperature)

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x one step further towards 0 or 1."""
        factor = CLOSING_RATIO ** (1 / context.window.closing)
        return polarize(context.gate_param, context.chosen, context.temperature, factor, CLOSED_BELOW)

    def finalize(self, state: MethodState, context: StepContext) -> Tensor:
        """Return 0, or x with a value of at least about 2/3."""
        return torch.where(context.chosen, context.gate_param.clamp_min((2 * context.temperature) ** 0.5), 0.0)


def polarize(gate_param: Tensor, keep_mask: Tensor, eps: float, factor: float, closed_below: float) -> Tensor:
    """Return x after one polarization step: gates that should go shrink, gates that should stay grow back to 1.

    The step is a sign step in log x on `lambda * cost - importance`, projected on x <= 1; near 0 it is the exponential
    decay that gradient descent on GDP's gate gives. As that never ends, gates whose value fell below `closed_below` are
    set to exactly 0 by a proximal step, and 0 stays 0.

    Args:
        gate_param: x of every gate, shape (channels of all groups,), in [0, 1].
        keep_mask: gates whose importance exceeds lambda times their cost.
        eps: of the smoothed L0 norm.
        factor: what x shrinks by per step, below 1.
        closed_below: value of a gate that is as good as closed.
    """
    moved = torch.where(keep_mask, gate_param / factor, gate_param * factor).clamp_max(1.0)
    return torch.where(~keep_mask & (polar_gate(moved, eps) < closed_below), 0.0, moved)
