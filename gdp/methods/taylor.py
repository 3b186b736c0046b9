"""Taylor importance of gates (Molchanov et al., CVPR 2019, arXiv 1906.10771)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.helpers import globally
from gdp.methods.polar import Polar


@dataclass(frozen=True)
class Taylor(Polar):
    """Keep channels of the largest squared gate gradient, whatever they cost.

    With a gate g_c behind the norm of channel c the importance is `I_c = (g_c dL/dg_c)^2` per batch, and a running mean
    of it over batches: `I <- 0.9 I + 0.1 I_c`. Scores of all groups are compared as they are.

    The default, `Polar`, has the same score and the same gates. It differs in three things: it divides the score by the
    FLOPs of a channel, its mean reaches further back (0.95), and it reads every second batch.

    Attributes:
        memory: weight of the past in the running mean, in [0, 1).
        gradient_interval: read the gradients every so many optimizer steps.

    Source: Importance Estimation for Neural Network Pruning (Molchanov et al., CVPR 2019, arXiv 1906.10771), its
    variant with gates, in which 100 channels go after every 30 batches. Own: the budget and its schedule say how many
    go and when; the gradient of a batch is that of the mean loss, after accumulation and reduction over processes.

    Raises:
        GDPError: an option is out of range.
    """

    memory: float = 0.9
    gradient_interval: int = 1

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the running mean times the FLOPs of a channel, as channels are compared per FLOP."""
        return globally(state["importance"], context)
