"""Polar gates: GDP (Guo et al., ICCV 2021, arXiv 2109.02220). The loss says what to keep, gates polarize."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import polar_gate
from gdp.methods.base import CLOSED_BELOW, MethodState, PruningMethod, StepContext
from gdp.methods.schedule import Window

EMA_DECAY = 0.95  # weight of the past in the running mean of squared gate gradients
# x falls by this factor while a gate closes: with the last eps, to about that value of the gate
CLOSING_RATIO = 1e-3


@dataclass(frozen=True)
class Polar(PruningMethod):
    """Close gates `x^2 / (x^2 + eps)` by the squared gate gradient per FLOP.

    Channels of too little importance for their FLOPs close step by step, until x is exactly 0, or open again before.

    Attributes:
        start: where the window begins, as a fraction of the run; until then gradients are only watched.
        end: where the window ends; the target holds from here on, and the rest of the run trains the small network.
        closing: optimizer steps a gate takes from open to closed; fewer if the window is short.
        gradient_interval: read the gradients every so many optimizer steps.
        cost: what the budget counts: "flops", or "latency", the time that every layer takes on this device.
        eps: of the smoothed L0 norm at the beginning and at the end of the window; annealed geometrically.
        memory: weight of the past in the running mean of squared gate gradients, in [0, 1).

    Source: the gates are those of GDP (Guo et al., ICCV 2021, arXiv 2109.02220). Own choice: the importance, a diagonal
    of the gates' empirical Fisher information (Theis et al., arXiv 1801.05787), and the way gates move.

    Raises:
        GDPError: an option is out of range.
    """

    eps: tuple[float, float] = (0.1, 1e-4)
    memory: float = EMA_DECAY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eps[1] <= self.eps[0] or not 0 <= self.memory < 1:
            raise GDPError(
                f"Expected 0 < eps end <= eps start and memory in [0, 1), but got {self.eps}, {self.memory}."
            )

    @property
    def temperatures(self) -> tuple[float, float]:
        """The first and the last eps."""
        return self.eps

    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        """Return the polar gate of every x."""
        return polar_gate(gate_param, temperature)

    def update(self, state: MethodState, gradient: Tensor) -> MethodState:
        """Take the squared gradient into the running mean."""
        return {"importance": sensitivity(state["importance"], gradient, self.memory)}

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the running mean of the squared gate gradient."""
        return state["importance"]

    def step(self, gate_param: Tensor, keep_mask: Tensor, temperature: float, window: Window) -> Tensor:
        """Return x one step further towards 0 or 1."""
        return polarize(gate_param, keep_mask, temperature, CLOSING_RATIO ** (1 / window.closing), CLOSED_BELOW)

    def finalize(self, gate_param: Tensor, keep_mask: Tensor, temperature: float) -> Tensor:
        """Return 0, or x with a value of at least about 2/3."""
        return torch.where(keep_mask, gate_param.clamp_min((2 * temperature) ** 0.5), 0.0)


def sensitivity(past: Tensor, gradient: Tensor, memory: float) -> Tensor:
    """Return the running mean of the squared gate gradient; a gradient that is not finite changes nothing.

    The square, because first-order gradients vanish at trained gates and leave noise; it is the diagonal of the
    empirical Fisher information of the gates (own choice; Fisher pruning: Theis et al., arXiv 1801.05787).

    Args:
        past: the mean before, shape (channels of all groups,).
        gradient: `g_c * dL/dg_c` of every channel, of the same shape.
        memory: weight of the past, in [0, 1).
    """
    return torch.where(gradient.isfinite().all(), memory * past + (1 - memory) * gradient.square(), past)


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
