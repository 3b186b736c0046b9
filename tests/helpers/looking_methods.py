"""Methods that look into passes of the network: some are shown batches, others add a loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp import Polar
from gdp.methods import MethodState, Seen, StepContext


@dataclass(frozen=True)
class Shown(Polar):
    """Counts the batches that it is shown, and notes how active channels are in them; else it is Polar."""

    batches: int = 2

    @property
    def observed_batches(self) -> int:
        return self.batches

    def init_state(self, channels: int) -> MethodState:
        mine = {"activity": torch.zeros(channels), "shown": torch.zeros((), dtype=torch.long)}
        return super().init_state(channels) | mine

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        return state | super().update(state, gradient, context)

    def observe(self, state: MethodState, seen: Seen, context: StepContext) -> MethodState:
        activity = 0.5 * (state["activity"] + activity_of(seen, len(context.gate_param)))
        return state | {"activity": activity, "shown": state["shown"] + 1}


class ByActivity(Shown):
    """Channels that are active stay."""

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        return state["activity"]


class ByClass(Shown):
    """Needs to know the classes."""

    needs_labels = True


def activity_of(seen: Seen, channels: int) -> Tensor:
    """The mean magnitude of what is read of every channel."""
    total, count = torch.zeros(channels + 1), torch.zeros(channels + 1)
    for found in seen.activations:
        others = [d for d in range(found.tensor.dim()) if d != found.dim]
        total.index_add_(0, found.channel, found.tensor.float().abs().mean(others))
        count.index_add_(0, found.channel, torch.ones(len(found.channel)))
    return (total / count.clamp_min(1))[:-1]


@dataclass(frozen=True)
class AddsLoss(Polar):
    """Adds a penalty on activations and output."""

    weight: float = 0.1

    @property
    def adds_loss(self) -> bool:
        return True

    def forward_loss(self, state: MethodState, seen: Seen, context: StepContext) -> Tensor | None:
        return penalty_of([found.tensor for found in seen.activations], seen.output, self.weight)


def penalty_of(activations: Iterable[Tensor], output: Tensor, weight: float) -> Tensor:
    """What `AddsLoss` adds."""
    squares = [tensor.float().square().mean() for tensor in activations]
    return weight * (torch.stack(squares).sum() + output.float().square().mean())
