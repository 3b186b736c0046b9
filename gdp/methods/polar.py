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
CLOSING_RATIO = 1e-3  # x falls by this factor in one glide: with the last eps, to about that value of the gate


@dataclass(frozen=True)
class Polar(PruningMethod):
    """Gates `x^2 / (x^2 + eps)`; what is worth too little for its FLOPs glides to exactly 0, or comes back before.

    Attributes:
        eps: of the smoothed L0 norm at the beginning and at the end of the window; annealed geometrically.
        memory: weight of the past in the running mean of squared gate gradients.
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
        return self.eps

    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        return polar_gate(gate_param, temperature)

    def update(self, state: MethodState, gradient: Tensor) -> MethodState:
        return {"importance": sensitivity(state["importance"], gradient, self.memory)}

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        return state["importance"]

    def step(self, gate_param: Tensor, keep_mask: Tensor, temperature: float, window: Window) -> Tensor:
        return polarize(gate_param, keep_mask, temperature, CLOSING_RATIO ** (1 / window.closing), CLOSED_BELOW)

    def finalize(self, gate_param: Tensor, keep_mask: Tensor, temperature: float) -> Tensor:
        return torch.where(keep_mask, gate_param.clamp_min((2 * temperature) ** 0.5), 0.0)


def sensitivity(past: Tensor, gradient: Tensor, memory: float) -> Tensor:
    """Running mean of the squared gate gradient; a gradient that is not finite changes nothing.

    The square, because first-order gradients vanish at trained gates and leave noise; it is the diagonal of the
    empirical Fisher information of the gates (own choice; Fisher pruning: Theis et al., arXiv 1801.05787).
    """
    return torch.where(gradient.isfinite().all(), memory * past + (1 - memory) * gradient.square(), past)


def polarize(gate_param: Tensor, keep_mask: Tensor, eps: float, factor: float, closed_below: float) -> Tensor:
    """One polarization step: gates that should go shrink, gates that should stay grow back to 1.

    The step is a sign step in log x on `lambda * cost - worth`, projected on x <= 1; near 0 it is the exponential decay
    that gradient descent on GDP's gate gives. As that never ends, gates whose value fell below `closed_below` are set
    to exactly 0 by a proximal step, and 0 stays 0.

    Args:
        raw: x of every gate, in [0, 1].
        keep: gates whose worth exceeds lambda times their cost.
        eps: of the smoothed L0 norm.
        factor: what x shrinks by per step, below 1.
        closed_below: value of a gate that is as good as closed.
    """
    moved = torch.where(keep_mask, gate_param / factor, gate_param * factor).clamp_max(1.0)
    return torch.where(~keep_mask & (polar_gate(moved, eps) < closed_below), 0.0, moved)
