"""GDP by its own terms (Guo et al., arXiv 2109.02220): gates learn from loss and FLOPs while weights train."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import polar_gate
from gdp.methods.base import CLOSED_BELOW, LearningBatches, MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.polar import EMA_DECAY, sensitivity
from gdp.methods.soft_flops import soft_flops, solve_multiplier, x_gradients, x_of

FASTEST = 0.7  # what a gate's value is multiplied with, or divided by, at most, per step
DAMPING = 1e-3  # of the squared gate gradient, in units of its mean
TIE_BREAK = 1e-3  # by how much of x the squared gate gradient per FLOP may change the order of channels


@dataclass(frozen=True)
class GDP(GlidingGates):
    """Learn the x of every gate `x^2 / (x^2 + eps)` by the gradient of `L(w, g) + lambda * F(g)`.

    F is `const + sum_l a_l (sum g_l) (sum g_{l+1})`, the FLOPs as a bilinear function of the gates; eps falls, so that
    the smoothed L0 norm comes close to a count; and gates come to exactly 0 by a proximal step. With `G = g dL/dg`, of
    the batches that the weights are trained on,

        dL/dx = G * 2 eps / (x (x^2 + eps))         dF/dx = dF/dg * g * 2 eps / (x (x^2 + eps)).

    Attributes:
        start: where the window begins, as a fraction of the run; until then gradients are only watched.
        end: where the window ends; the target holds from here on, and the rest of the run trains the small network.
        closing: channels are chosen last so many optimizer steps before the end, and gates glide from then on.
        gradient_interval: read the gradients every so many optimizer steps.
        cost: what the budget counts: "flops", or "latency", the time that every layer takes on this device.
        eps: of the smoothed L0 norm at the beginning and at the end of the window; annealed geometrically.
        every: gates learn at every so many optimizer steps; a GPU waits there, as lambda is solved for on the CPU.
        rate: of the loss part of a step, where a typical gate gradient is 1.
        power: of the mean squared gate gradient that steps are divided by, in [0, 1]: 1 is a natural gradient, 0.5 what
            Adam does, 0 plain descent.
        memory: weight of the past in the running mean of squared gate gradients, in [0, 1).

    Source: GDP (Guo et al., ICCV 2021, arXiv 2109.02220): the place and the function of gates, the bilinear FLOPs,
    exact zeros, joint training. Its text could not be read beyond that.

    Own: (1) Steps are divided by the mean squared gate gradient of the channel (a diagonal natural gradient). Plain
    descent closes one residual stream almost alone, and so does Adam's scale (docs/method.md). eps begins low, so that
    few gates are half open at a time. (2) The multiplier is solved for at every step, such that F of the moved gates is
    what the schedule allows, as far as gates may move. (3) A channel that is among the chosen ones keeps a value of at
    least 1/2, so no group falls below what the budget leaves it. (4) A value changes by less than a third per step;
    what fell below 0.01, and is not chosen, becomes 0. (5) Channels are chosen by x, by the squared gate gradient per
    FLOP where x agree; in the last `closing` steps gates glide to 0 or 1.

    Raises:
        GDPError: an option is out of range.
    """

    eps: tuple[float, float] = (1e-3, 1e-4)
    every: int = 2
    rate: float = 0.01
    power: float = 1.0
    memory: float = EMA_DECAY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.every, int) and self.every >= 1 and self.rate >= 0):
            raise GDPError(
                f"Expected every of at least 1 step and a rate of at least 0, but got {self.every} and {self.rate}."
            )
        if not (0 <= self.power <= 1 and 0 <= self.memory < 1):
            raise GDPError(f"Expected power in [0, 1] and memory in [0, 1), but got {self.power} and {self.memory}.")

    @property
    def learns_from(self) -> LearningBatches:
        """The batches that the weights are trained on."""
        return LearningBatches("train", self.every)

    def init_state(self, channels: int) -> MethodState:
        """Return zeros for the mean squared gate gradient, and for the last multiplier."""
        return {
            "sensitivity": torch.zeros(channels, dtype=torch.float32),
            "multiplier": torch.zeros((), dtype=torch.float32),
        }

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        """Take the squared gradient into the running mean."""
        return state | {"sensitivity": sensitivity(state["sensitivity"], gradient, self.memory)}

    def learn(self, state: MethodState, gradient: Tensor, context: StepContext) -> tuple[MethodState, Tensor]:
        """Take one step of descent on every x; 0 stays 0, and a gradient that is not finite changes nothing."""
        x = context.gate_param.cpu().double()
        by_loss, by_flops = x_gradients(x, gradient.cpu().double(), context)
        if context.steps >= context.window.last_selection or not bool(by_loss.isfinite().all()):
            return state, context.gate_param

        # steps, in units of the mean squared gate gradient
        squares = state["sensitivity"].cpu().double()
        unit = squares[x > 0].mean().clamp_min(1e-30)
        scale = 1 / (squares / unit + DAMPING) ** self.power
        by_loss, by_flops = self.rate / unit.sqrt() * scale * by_loss, scale * by_flops

        # bounds of the new x; what is chosen keeps a value of 1/2
        value, eps = polar_gate(x, context.temperature), context.temperature
        lowest = torch.where(context.chosen.cpu(), value.clamp_max(0.5), 0.0)
        lowest = x_of(torch.maximum(FASTEST * value, lowest), eps)
        highest = x_of((value / FASTEST).clamp_max(1.0), eps)

        def moved(multiplier: float) -> Tensor:
            return torch.minimum(torch.maximum(x - by_loss - multiplier * by_flops, lowest), highest)

        multiplier = solve_multiplier(
            lambda multiplier: soft_flops(moved(multiplier), context), context.allowed, float(state["multiplier"])
        )
        fresh = state["multiplier"].new_tensor(multiplier)
        return state | {"multiplier": fresh}, moved(multiplier).to(context.gate_param)

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x times the FLOPs of a channel, so that x alone decides: its gradient has weighed the FLOPs."""
        flops = context.marginal
        per_flop = state["sensitivity"].cpu().double() / flops.clamp_min(1e-30)
        small = TIE_BREAK * per_flop / per_flop.max().clamp_min(1e-30)
        return (context.gate_param.cpu().double() + small) * flops

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x with what is as good as closed set to 0; once channels are chosen for good, gates glide."""
        if context.steps >= context.window.last_selection:
            return super().step(state, context)
        x = context.gate_param
        return torch.where(~context.chosen & (polar_gate(x, context.temperature) < CLOSED_BELOW), 0.0, x)
