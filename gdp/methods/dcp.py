"""Discrimination-aware score of channels: after DCP (Zhuang et al., NeurIPS 2018, arXiv 1810.11809)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, uniform


@dataclass(frozen=True)
class DCP(GlidingGates):
    """Keep channels whose slices of the next weights have large gradients, and the same fraction of every group.

    The score of channel c is `||dL/dW[:, c]||_F` over all weights W that read it: per batch in units of the norm over
    all channels, then as a running mean over batches.

    Attributes:
        memory: weight of the past in the running mean, in [0, 1).

    Source: Discrimination-aware Channel Pruning (Zhuang et al., NeurIPS 2018, arXiv 1810.11809), which adds channels to
    an empty layer by this norm. Own: no classifiers inside the network and no reconstruction error, L being the loss
    that is trained anyway; channels are removed by the running mean instead of added one by one with an optimization
    after each. Classes are asked for, since a loss without them discriminates nothing.

    Raises:
        GDPError: an option is out of range.
    """

    memory: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.memory < 1:
            raise GDPError(f"Expected memory in [0, 1), but got {self.memory}.")

    @property
    def needs_labels(self) -> bool:
        """Whether a batch has to be a pair of inputs and classes."""
        return True

    def init_state(self, channels: int) -> MethodState:
        """Return zeros for the running mean."""
        return {"norm": torch.zeros(channels, dtype=torch.float32)}

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        """Take the gradients of the weights into the running mean; those that are not finite change nothing."""
        norm = by_channel(context, "reads", _squared_gradient).sqrt()
        norm = norm / norm.norm().clamp_min(1e-30)
        mean = self.memory * state["norm"] + (1 - self.memory) * norm
        return {"norm": torch.where(norm.isfinite().all(), mean, state["norm"])}

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by the running mean."""
        return uniform(state["norm"], context)


def _squared_gradient(weight: nn.Parameter | Tensor) -> Tensor:
    """Return the squared gradient of a weight, zeros where it has none.

    Args:
        weight: of the network.
    """
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.float().square()
