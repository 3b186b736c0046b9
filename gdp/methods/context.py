"""StepContext: what a method is told of the run, and of the network as it is now."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.gates import ChannelTensor, Gates, Role
from gdp.graph import FlopModel
from gdp.methods.schedule import Window


@dataclass(frozen=True)
class StepContext:
    """Where a run is when gates move.

    Attributes:
        gates: of the network.
        cost: the FLOPs as a function of the open channels of every group.
        allowed: the fraction of the dense FLOPs that is allowed now, in (0, 1].
        window: the steps in which gates close.
        keep_mask: the channels that were chosen last, one bool per channel of all groups; None before that.
        steps: optimizer steps since training began.
        temperature: of the gate function, now.
        regrows: whether closed channels may be chosen again.
        target: the fraction of the dense FLOPs that is to remain in the end.
    """

    gates: Gates
    cost: FlopModel
    allowed: float
    window: Window
    keep_mask: Tensor | None
    steps: int
    temperature: float
    regrows: bool
    target: float

    @property
    def chosen(self) -> Tensor:
        """The channels that were chosen last, one bool per channel of all groups; there is a choice inside the window.

        Raises:
            AssertionError: there was no choice yet.
        """
        assert self.keep_mask is not None
        return self.keep_mask

    @property
    def gate_param(self) -> Tensor:
        """The x of every gate, in [0, 1]: exactly 0.0 is closed, 1.0 is open."""
        return self.gates.gate_param

    @property
    def is_open(self) -> Tensor:
        """Whether each gate is not closed, one bool per channel of all groups."""
        return self.gates.gate_param > 0

    @property
    def is_there(self) -> Tensor:
        """Whether each channel has not been cut out of the network, on the device of the gates."""
        return ~self.gates.removed.to(self.gates.gate_param.device)

    @property
    def may_stay(self) -> Tensor:
        """The channels that a choice may keep, one bool per channel of all groups, on the CPU."""
        return (self.is_there if self.regrows else self.is_open).cpu()

    @property
    def group_of(self) -> Tensor:
        """The number of the group of every channel, on the CPU."""
        return self.gates.group_of

    @property
    def progress(self) -> float:
        """How much of the window is over, in [0, 1]."""
        window = self.window
        return min(1.0, max(0.0, (self.steps - window.start) / (window.end - window.start)))

    @property
    def marginal(self) -> Tensor:
        """The FLOPs that every channel carries now, float64 on the CPU; importance is compared per FLOP."""
        counts = torch.zeros(len(self.gates.spans), dtype=torch.long).index_add_(0, self.group_of, self.may_stay.long())
        return self.cost.marginal(counts)[self.group_of]

    def tensors(self, role: Role) -> tuple[ChannelTensor, ...]:
        """Return the parameters that do something with channels, as they are now.

        Args:
            role: "writes" for weights along their output channels; "reads" for gated weights along their input
                channels; "scales" for factors, as of norms; "shifts" for biases.
        """
        return self.gates.tensors(role)
