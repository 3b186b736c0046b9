"""Gates that are open or closed, for methods that act on weights, or that say on their own when one closes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gdp.methods.base import MethodState, PruningMethod
from gdp.methods.context import StepContext


@dataclass(frozen=True)
class HardGates(PruningMethod):
    """Let the value of a gate be its x; leave x as it is inside the window, and close then what was not chosen.

    A method whose business is what happens to weights is a subclass with an `importance`.
    """

    @property
    def temperatures(self) -> tuple[float, float]:
        """Nothing depends on them."""
        return (1.0, 1.0)

    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        """Return x itself."""
        return gate_param

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x as it is."""
        return context.gate_param

    def finalize(self, state: MethodState, context: StepContext) -> Tensor:
        """Return 1 for the chosen channels, 0 for the others."""
        return context.chosen.to(context.gate_param)
