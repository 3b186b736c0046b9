"""DAIS by its own terms (Guan et al., arXiv 2011.02166): indicators that learn by nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from gdp.methods.annealed import Annealed, closed
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext


@dataclass(frozen=True)
class DAIS(Annealed):
    """Learn indicators `sigmoid(alpha / T)` on held-out batches by loss, L1 norm and FLOPs, as DAIS has it.

    From `Annealed`, which has the equations, it differs in this: the temperature falls as `T = 1 / (1 + 49 p)` with the
    progress p; B of the budget term (equation 10) is the target from the beginning on; 30 % of the data is held out;
    none of the budget term's pressure is given back; and gates do not move to the side on which they will end.
    Channels whose indicators a shortcut joins have one indicator here, as removal is exact only then, so the symmetry
    term (equation 11), which makes them agree, is zero whatever its form.

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
        annealing: the first and the last temperature.
        budget: weight of the budget term, equation 10.
        curvature: what part of the budget term's pressure is given back to channels; 0 in DAIS.
        lasso: weight of the L1 term, equation 8.
        tolerance: the budget term is 0 where the FLOPs lie this close to the target, as a fraction of it.

    Source: DAIS (Guan et al., arXiv 2011.02166), whose text could not be read; what is here follows its abstract and a
    public re-implementation, which numbers the equations. Own: the weights of the terms (with the 2 of `Annealed` for
    the budget term, whose B falls along the way, a residual stream closes almost alone: docs/method.md); pace and
    tolerance, which are those of `Annealed`; the L1 norm as a mean; the window in place of the whole run; one step of
    first order on alpha every few steps of the weights, where DARTS has a second order; ranking by alpha, which moves
    the threshold of 1/2 by as much as the target asks for; the squared gate gradient where alphas agree; and exact
    zeros below 0.01, so that channels can be cut.

    Raises:
        GDPError: an option is out of range.
    """

    held_out: float | Literal["val"] = 0.3
    budget: float = 0.2
    curvature: float = 0.0

    def temperature(self, progress: float) -> float:
        """Return the temperature, whose inverse grows linearly: `1 / (1 + 49 p)` from 1 to 0.02.

        Args:
            progress: fraction of the window that is over, p in [0, 1].
        """
        first, last = self.annealing
        return first / (1 + (first / last - 1) * min(max(progress, 0.0), 1.0))

    def budgeted(self, context: StepContext) -> float:
        """Return B of the budget term, as a fraction of the dense FLOPs: the target, from the beginning on.

        Args:
            context: where the run is.
        """
        return context.target

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x with those as good as closed set to 0; held-out batches move these gates otherwise."""
        return closed(context.gate_param, context)
