"""Polar gates: Fisher or Taylor importance of channels with the gates of GDP (arXiv 2109.02220). The default."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates

EMA_DECAY = 0.95  # weight of the past in the running mean of squared gate gradients


@dataclass(frozen=True)
class Polar(GlidingGates):
    """Close gates `x^2 / (x^2 + eps)` by the squared gate gradient per FLOP.

    What ranks channels is not GDP's: the running mean of `(g dL/dg)^2` is the importance of Fisher pruning (Theis et
    al., arXiv 1801.05787) and of Taylor pruning with gates (Molchanov et al., CVPR 2019, arXiv 1906.10771). GDP's are
    the gates: their place, function, falling eps and exact zeros. In GDP itself x learns from the gradient of loss and
    FLOPs; that is `gdp.methods.GDP`. Here channels of too little importance for their FLOPs close step by step, until x
    is exactly 0, or open again before.

    Attributes:
        start: where the window begins, as a fraction of the run; until then gradients are only watched.
        end: where the window ends; the target holds from here on, and the rest of the run trains the small network.
        closing: optimizer steps a gate takes from open to closed; fewer if the window is short.
        gradient_interval: read the gradients every so many optimizer steps.
        cost: what the budget counts: "flops", or "latency", the time that every layer takes on this device.
        eps: of the smoothed L0 norm at the beginning and at the end of the window; annealed geometrically.
        memory: weight of the past in the running mean of squared gate gradients, in [0, 1).

    Source: the gates are those of GDP (Guo et al., ICCV 2021, arXiv 2109.02220); the importance is the diagonal of
    their empirical Fisher information, of batches instead of single images. Own: the importance per FLOP, with a
    multiplier that is solved for; how far the mean reaches back; the way gates move.

    Raises:
        GDPError: an option is out of range.
    """

    memory: float = EMA_DECAY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.memory < 1:
            raise GDPError(f"Expected memory in [0, 1), but got {self.memory}.")

    def init_state(self, channels: int) -> MethodState:
        """Return zeros for the running mean of the squared gate gradient."""
        return {"importance": torch.zeros(channels, dtype=torch.float32)}

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        """Take the squared gradient into the running mean."""
        return {"importance": sensitivity(state["importance"], gradient, self.memory)}

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the running mean of the squared gate gradient."""
        return state["importance"]


def sensitivity(past: Tensor, gradient: Tensor, memory: float) -> Tensor:
    """Return the running mean of the squared gate gradient.

    The square, because first-order gradients vanish at trained gates and leave noise; it is the diagonal of the
    empirical Fisher information of the gates (Fisher pruning: Theis et al., arXiv 1801.05787).

    Args:
        past: the mean before, shape (channels of all groups,).
        gradient: `g_c * dL/dg_c` of every channel, of the same shape.
        memory: weight of the past, in [0, 1).
    """
    return memory * past + (1 - memory) * gradient.square()
