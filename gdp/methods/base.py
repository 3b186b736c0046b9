"""PruningMethod: what a method says of channels and gates. A new one is one subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gdp.gates import Gates
from gdp.graph import FlopModel
from gdp.methods.schedule import Schedule, Window

MethodState = dict[str, Tensor]  # what a method remembers between steps; it is part of checkpoints

CLOSED_BELOW = 0.01  # a gate with a value below this is as good as closed


@dataclass(frozen=True)
class StepContext:
    """Where a run is when gates move.

    Attributes:
        gates: of the network; their `gate_param` is the x of every gate, shape (channels of all groups,), in [0, 1]:
            exactly 0.0 is closed for good, 1.0 is open.
        cost: the FLOPs as a function of the open channels of every group.
        allowed: the fraction of the dense FLOPs that is allowed now, in (0, 1].
        window: the steps in which gates close.
        keep_mask: the channels that were chosen last, one bool per channel of all groups; None before that.
    """

    gates: Gates
    cost: FlopModel
    allowed: float
    window: Window
    keep_mask: Tensor | None


class HeldOutSpec(NamedTuple):
    """Batches that the weights are not trained on.

    Attributes:
        source: the fraction of the training data that is taken out for them, in (0, 1), or "val": the validation data.
        every: gates learn from one at every so many optimizer steps.
    """

    source: float | Literal["val"]
    every: int


@dataclass(frozen=True)
class PruningMethod(Schedule, ABC):
    """Say which channels matter, what a gate's value is, and how gates move: `GDPCallback(0.4, method=MyMethod())`.

    All methods of this class are functions of tensors of shape (channels of all groups,) and change nothing in place.
    `x` is the parameter of a gate, in [0, 1]. The options of `Schedule` say when and how fast gates close.
    """

    @property
    def held_out_spec(self) -> HeldOutSpec | None:
        """The held-out batches that `update_held_out` is to be told of, if any."""
        return None

    @property
    @abstractmethod
    def temperatures(self) -> tuple[float, float]:
        """The first and the last temperature of the gate function; `temperature` gives those in between."""

    @abstractmethod
    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        """Return what channels are multiplied with: exactly 0 for x = 0, exactly 1 for x = 1, rising in between.

        Args:
            gate_param: x of every gate, shape (channels of all groups,).
            temperature: of the gate function.
        """

    @abstractmethod
    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return what the loss would suffer without each channel; channels are kept by importance per FLOP.

        Args:
            state: what is remembered.
            context: where the run is.

        Returns:
            Importance, finite and not negative, in any unit, shape (channels of all groups,).
        """

    @abstractmethod
    def step(self, gate_param: Tensor, keep_mask: Tensor, temperature: float, window: Window) -> Tensor:
        """Return the x of every gate after one more step.

        Args:
            gate_param: x of every gate, shape (channels of all groups,).
            keep_mask: the channels that were chosen last; x of the others may become 0, and stays 0 then.
            temperature: of the gate function.
            window: the steps in which gates close.
        """

    @abstractmethod
    def finalize(self, gate_param: Tensor, keep_mask: Tensor, temperature: float) -> Tensor:
        """Return the x of every gate at the end of the window: 0, or one with a value above 1/2.

        Args:
            gate_param: x of every gate, shape (channels of all groups,).
            keep_mask: the channels that fit into the target.
            temperature: the last one.
        """

    def init_state(self, channels: int) -> MethodState:
        """Return what is remembered before the first step.

        Args:
            channels: of all groups.
        """
        return {"importance": torch.zeros(channels, dtype=torch.float32)}

    def update(self, state: MethodState, gradient: Tensor) -> MethodState:
        """Return what is remembered after a training batch.

        Args:
            state: what was remembered before.
            gradient: `g_c * dL/dg_c` of every channel, shape (channels of all groups,).
        """
        return state

    def update_held_out(self, state: MethodState, gradient: Tensor, context: StepContext) -> tuple[MethodState, Tensor]:
        """Return what is remembered after a held-out batch, and the x of every gate.

        Args:
            state: what was remembered before.
            gradient: `g_c * dL/dg_c` of every channel, shape (channels of all groups,).
            context: where the run is.
        """
        return state, context.gates.gate_param

    def temperature(self, progress: float) -> float:
        """Return the temperature at a moment of the window: geometric from first to last.

        Args:
            progress: fraction of the window that is over, in [0, 1].
        """
        return anneal(*self.temperatures, progress)


def anneal(first: float, last: float, progress: float) -> float:
    """Return a value between two, geometrically.

    Args:
        first: value at progress 0, above 0.
        last: value at progress 1, above 0.
        progress: in [0, 1]; what lies outside counts as the nearer end.

    >>> round(anneal(0.1, 1e-4, 2 / 3), 6)
    0.001
    """
    return float(first * (last / first) ** min(max(progress, 0.0), 1.0))
