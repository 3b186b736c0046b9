"""GateFamily: what a kind of gates has to say. A new kind is one subclass: `GDPCallback(0.4, gate=MyGates())`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gdp.gates import Gates
from gdp.graph import FlopModel
from gdp.methods.schedule import Schedule, Window

MethodState = dict[str, Tensor]  # what a family remembers between steps; it is part of checkpoints

CLOSED_BELOW = 0.01  # a gate below this value is as good as closed


@dataclass(frozen=True)
class StepContext:
    """Where a run is when gates move.

    Attributes:
        gates: of the network. Their `raw` is the x of every gate, in [0, 1]; exactly 0.0 is closed for good, 1.0 open.
        cost: the FLOPs as a function of the open channels of every group.
        allowed: the fraction of the dense FLOPs that is allowed now.
        window: where gates close.
        keep: the channels that fit into what is allowed, as they were chosen last; None before that.
    """

    gates: Gates
    cost: FlopModel
    allowed: float
    window: Window
    keep_mask: Tensor | None


class HeldOutSpec(NamedTuple):
    """Batches that the weights are not trained on.

    Attributes:
        source: the fraction of the training data that is taken out for them, or "val": the validation data.
        every: gates learn from one at every so many optimizer steps.
    """

    source: float | Literal["val"]
    every: int


@dataclass(frozen=True)
class PruningMethod(Schedule, ABC):
    """A kind of gates: their values, what they remember of the gradients, and how they move.

    All methods are functions of tensors of shape (channels of all groups,) and change nothing in place.

    """

    @property
    def held_out_spec(self) -> HeldOutSpec | None:
        """The held-out batches that `learn` is to be told of, if any."""
        return None

    @property
    @abstractmethod
    def temperatures(self) -> tuple[float, float]:
        """The first and the last temperature; in between it is annealed by `temperature`."""

    @abstractmethod
    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        """What channels are multiplied with: exactly 0 for x = 0, exactly 1 for x = 1, rising in between."""

    @abstractmethod
    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """What the loss would suffer without each channel, not negative; channels are kept by worth per FLOP."""

    @abstractmethod
    def step(self, gate_param: Tensor, keep_mask: Tensor, temperature: float, window: Window) -> Tensor:
        """The x of every gate after one more step; those of channels that are not kept may become 0, and stay it."""

    @abstractmethod
    def finalize(self, gate_param: Tensor, keep_mask: Tensor, temperature: float) -> Tensor:
        """The x of every gate at the end of the window: 0, or with a value above 1/2."""

    def init_state(self, channels: int) -> MethodState:
        """What is remembered before the first step."""
        return {"importance": torch.zeros(channels, dtype=torch.float32)}

    def update(self, state: MethodState, gradient: Tensor) -> MethodState:
        """What is remembered after a training batch, whose `g_c * dL/dg_c` are given."""
        return state

    def update_held_out(self, state: MethodState, gradient: Tensor, context: StepContext) -> tuple[MethodState, Tensor]:
        """What is remembered after a held-out batch, whose `g_c * dL/dg_c` are given, and the x of every gate."""
        return state, context.gates.gate_param

    def temperature(self, progress: float) -> float:
        """The temperature at `progress` in [0, 1] of the window: geometric from first to last."""
        return anneal(*self.temperatures, progress)


def anneal(first: float, last: float, progress: float) -> float:
    """Geometric annealing.

    >>> round(anneal(0.1, 1e-4, 2 / 3), 6)
    0.001
    """
    return float(first * (last / first) ** min(max(progress, 0.0), 1.0))
