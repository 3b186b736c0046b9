"""Channels at random: what every score has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import uniform


@dataclass(frozen=True)
class Random(GlidingGates):
    """Keep channels by a lot that is drawn once, and the same fraction of every group.

    The lot depends on the seed and on the number of channels alone: it is the same at every choice, in all processes,
    on every device and in a resumed run, and the random numbers of training are left alone.

    Attributes:
        seed: of the lot, a whole number of at least 0.

    Source: as a baseline, Recovering from Random Pruning (Mittal et al., arXiv 1801.10447).

    Raises:
        GDPError: an option is out of range.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.seed, int) or self.seed < 0:
            raise GDPError(f"Expected seed to be a whole number of at least 0, but got {self.seed!r}.")

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by their lot."""
        generator = torch.Generator().manual_seed(self.seed)
        lot = torch.rand(len(context.gate_param), generator=generator, dtype=torch.float32)
        return uniform(lot, context)
