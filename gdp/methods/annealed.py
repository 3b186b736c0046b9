"""Annealed indicators: our version of DAIS (arXiv 2011.02166). They learn on held-out batches, weights on the rest.

From the batches of the weights they take the squared gate gradient alone: by how much a channel is needed.

The equation numbers are those of the paper as its public re-implementation counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import indicator
from gdp.methods.base import CLOSED_BELOW, LearningBatches, MethodState, PruningMethod
from gdp.methods.context import StepContext
from gdp.methods.polar import EMA_DECAY, sensitivity

TIE_BREAK = 1e-3  # by how much of x the squared gate gradient may change the order of channels
# of Adam, with which DARTS (arXiv 1806.09055), and so DAIS, learns indicators
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Annealed(PruningMethod):
    """Learn indicators `sigmoid(alpha / T)` on held-out batches, T annealed; a channel stays iff its is above 1/2.

    The parameter x of a gate stands for `alpha = 2 x - 1`, in [-1, 1]; x > 1/2 is an indicator above 1/2.

    Attributes:
        start: where the window begins, as a fraction of the run; until then gradients are only watched.
        end: where the window ends; the target holds from here on, and the rest of the run trains the small network.
        closing: channels are chosen last so many optimizer steps before the end; fewer if the window is short.
        gradient_interval: read the gradients of training batches every so many optimizer steps.
        cost: what the budget counts: "flops", or "latency", the time that every layer takes on this device.
        held_out: fraction of the training data that the indicators learn on and the weights do not, in (0, 1); or
            "val", to learn on the validation data.
        every: the indicators learn at every so many optimizer steps, each time on one batch.
        pace: alpha can cross its range so many times within the window; this makes the learning rate (of Adam).
        annealing: the first and the last temperature; DAIS goes from 1 to 0.02.
        budget: weight of the budget term, equation 10.
        curvature: what part of the budget term's pressure is given back to channels, by their shares of the squared
            gate gradient, in [0, 1].
        lasso: weight of the L1 term, equation 8.
        tolerance: the budget term is 0 where the FLOPs lie this close to what is allowed, as a fraction of it.

    Source: DAIS (Guan et al., arXiv 2011.02166); docs/method.md says what is our own. `gdp.methods.DAIS` has the
    paper's terms alone.

    Raises:
        GDPError: an option is out of range.
    """

    held_out: float | Literal["val"] = 0.2
    every: int = 4
    pace: float = 8.0
    annealing: tuple[float, float] = (1.0, 0.02)
    budget: float = 2.0
    curvature: float = 0.5
    lasso: float = 1e-3
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out != "val" and not (isinstance(self.held_out, float) and 0 < self.held_out < 1):
            raise GDPError(f"Expected held_out to be a fraction in (0, 1) or 'val', but got {self.held_out!r}.")
        whole = isinstance(self.every, int) and self.every >= 1
        if not (whole and self.pace > 0 and 0 < self.annealing[1] <= self.annealing[0]):
            raise GDPError(
                "Expected every of at least 1 step, pace above 0 and 0 < last <= first temperature, but got "
                f"{self.every}, {self.pace} and {self.annealing}."
            )
        if not (self.budget >= 0 and self.lasso >= 0 and 0 <= self.curvature <= 1 and 0 <= self.tolerance < 1):
            raise GDPError(
                "Expected budget and lasso weights of at least 0, curvature in [0, 1] and a tolerance in [0, 1), but "
                f"got {self.budget}, {self.lasso}, {self.curvature} and {self.tolerance}."
            )

    @property
    def learns_from(self) -> LearningBatches:
        """The batches that the indicators learn on."""
        return LearningBatches(self.held_out, self.every)

    @property
    def temperatures(self) -> tuple[float, float]:
        """The first and the last temperature."""
        return self.annealing

    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        """Return the indicator of every x."""
        return indicator(gate_param, temperature)

    def init_state(self, channels: int) -> MethodState:
        """Return zeros for Adam's two moments and the squared gate gradient, and no step learned."""
        names = ("mean", "square", "sensitivity")
        zeros = {name: torch.zeros(channels, dtype=torch.float32) for name in names}
        return zeros | {"learned": torch.zeros((), dtype=torch.float32)}

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        """Take the squared gradient of a training batch into the running mean."""
        return state | {"sensitivity": sensitivity(state["sensitivity"], gradient, EMA_DECAY)}

    def learn(self, state: MethodState, gradient: Tensor, context: StepContext) -> tuple[MethodState, Tensor]:
        """Take one step of Adam on every alpha; closed gates stay closed, and what is not finite changes nothing."""
        # the gradient of every alpha that may still move
        total = self.alpha_gradient(gradient, state, context)
        before = context.gate_param
        finite = total.isfinite().all()
        total = torch.where(finite & (before > 0), total, 0.0)

        # Adam, without weight decay
        learned = state["learned"] + 1
        mean = ADAM_BETAS[0] * state["mean"] + (1 - ADAM_BETAS[0]) * total
        square = ADAM_BETAS[1] * state["square"] + (1 - ADAM_BETAS[1]) * total.square()
        step = (mean / (1 - ADAM_BETAS[0] ** learned)) / ((square / (1 - ADAM_BETAS[1] ** learned)).sqrt() + ADAM_EPS)
        rate = self.pace * self.every / (context.window.end - context.window.start)
        x = (before - min(rate, 0.25) * step).clamp(ADAM_EPS, 1.0)

        fresh = {"mean": mean, "square": square, "learned": learned}
        return (
            state | {name: torch.where(finite, tensor, state[name]) for name, tensor in fresh.items()},
            torch.where(finite & (before > 0), x, before),
        )

    def alpha_gradient(self, gradient: Tensor, state: MethodState, context: StepContext) -> Tensor:
        """Return what every alpha descends: the derivative of loss and regularizers, less the pressure given back.

        With `d log I / d alpha = (1 - I) / T` it follows from `g dL/dg`, which is `I dL/dI` whatever the scale of g.

        Args:
            gradient: `g_c * dL/dg_c` of every channel, shape (channels of all groups,).
            state: what is remembered.
            context: where the run is.
        """
        temperature, x = context.temperature, context.gate_param
        slope = torch.sigmoid((1 - 2 * x) / temperature) / temperature
        return slope * (gradient + self._regularizer(self.value(x, temperature), state, context))

    def _regularizer(self, value: Tensor, state: MethodState, context: StepContext) -> Tensor:
        """Return the derivative of the regularizers by the logarithm of every indicator, less the pressure given back.

        The budget term is `log(E / B)` above the tolerance band, `-log(E / B)` below it and 0 within (equation 10, with
        E of equation 9, bilinear in the sums of indicators, which are scaled as the gates are, and B of `budgeted`).
        Own choice: the L1 norm is a mean, so that its weight suits networks of any size. Indicators joined by a
        shortcut are one and the same here, so the term that makes them agree (equation 11) is zero whatever they are.

        Above the band, a part of the pressure is given back (own choice). Scaling all gates of a group alike changes
        nothing where batch norm follows, so the loss gradients of a group cancel each other out: nothing but the budget
        term would move a group as a whole, most of all a residual stream, whose channels cost most.

        Args:
            value: indicator of every channel, shape (channels of all groups,).
            state: what is remembered.
            context: where the run is.
        """
        # the budget term
        group_of, cost = context.group_of, context.cost
        open_sums = torch.zeros(len(cost.sizes), dtype=torch.float64).index_add_(0, group_of, value.cpu().double())
        expected = cost.expected(open_sums)
        off = expected / (self.budgeted(context) * cost.dense) - 1
        sign = 0.0 if abs(off) <= self.tolerance else (1.0 if off > 0 else -1.0)
        per_group = self.budget * sign / expected * cost.marginal(open_sums)
        pressure = per_group[group_of].to(value.device, torch.float32) * value

        # what of it is given back
        needed = torch.where(context.gate_param > 0, state["sensitivity"], 0.0)
        given_back = self.curvature * pressure.sum().clamp_min(0) * needed / needed.sum().clamp_min(1e-30)
        return pressure - given_back + self.lasso / len(value) * value

    def budgeted(self, context: StepContext) -> float:
        """Return B of the budget term, as a fraction of the dense FLOPs.

        Own choice: what the schedule allows at the moment, not the target from the beginning on.

        Args:
            context: where the run is.
        """
        return context.allowed

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x times the FLOPs of a channel, so that alpha alone decides: its budget term has weighed the FLOPs.

        Keeping the first that fit moves the threshold of 1/2 by as much as the target asks for (own choice). Where
        indicators agree, as they do until they have learned, the squared gate gradient decides.
        """
        small = TIE_BREAK * state["sensitivity"] / state["sensitivity"].max().clamp_min(1e-30)
        x = (context.gate_param + small).cpu().double()
        return x * context.marginal

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x with those as good as closed set to 0; held-out batches move these gates otherwise.

        Own choice: in the last quarter of the window, gates move at a constant pace to the side on which they will end.
        """
        gate_param = context.gate_param
        if context.temperature < self.temperature(0.75):
            change = torch.where(context.chosen, 4.0, -4.0) / (context.window.end - context.window.start)
            gate_param = torch.where(gate_param > 0, (gate_param + change).clamp(ADAM_EPS, 1.0), 0.0)
        return closed(gate_param, context)

    def finalize(self, state: MethodState, context: StepContext) -> Tensor:
        """Return 0, or x with an indicator above 1/2."""
        return torch.where(context.chosen, context.gate_param.clamp_min((1 + context.temperature) / 2), 0.0)


def closed(gate_param: Tensor, context: StepContext) -> Tensor:
    """Return x with the indicators that are as good as closed, and not of chosen channels, set to exactly 0.

    Args:
        gate_param: x of every gate, shape (channels of all groups,).
        context: where the run is.
    """
    is_low = indicator(gate_param, context.temperature) < CLOSED_BELOW
    return torch.where(~context.chosen & is_low, 0.0, gate_param)
