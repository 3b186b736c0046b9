"""gdp's methods in the comparison, and variants that were tried, as options or small subclasses.

Names are those of rows in docs/accuracy.csv.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

import gdp
from gdp.methods import by_channel


class Magnitude(gdp.Polar):
    """Keep what has the largest weights: the squared norm of all weights that read a channel."""

    def importance(self, state: dict[str, Tensor], context: Any) -> Tensor:
        return by_channel(context, "reads").detach()


class RootOfCost(gdp.Polar):
    """Rank by importance per square root of FLOPs, instead of importance per FLOP."""

    def importance(self, state: dict[str, Tensor], context: Any) -> Tensor:
        return state["importance"].cpu().double() * context.marginal.clamp_min(1).sqrt()


class RootOfImportance(gdp.Polar):
    """Rank by the root of the mean squared gate gradient, instead of the mean square."""

    def importance(self, state: dict[str, Tensor], context: Any) -> Tensor:
        return state["importance"].sqrt()


class FirstOrder(gdp.Polar):
    """Rank by the square of the mean gate gradient: the mean square without the noise of the batches."""

    def update(self, state: dict[str, Tensor], gradient: Tensor, context: Any) -> dict[str, Tensor]:
        return {"importance": self.memory * state["importance"] + (1 - self.memory) * gradient}

    def importance(self, state: dict[str, Tensor], context: Any) -> Tensor:
        return state["importance"].square()


# arguments of GDPCallback, besides the target
METHODS: dict[str, dict[str, Any]] = {
    "gdp polar": {},
    "gdp polar, at once": {"method": gdp.Polar(start=0.0, end=0.05), "shrink": 20},
    "gdp annealed": {"method": "annealed"},
    "gdp magnitude": {"method": Magnitude()},
}

VARIANTS: dict[str, dict[str, Any]] = {
    "gdp polar, window 0 to 0.3": {"method": gdp.Polar(start=0.0, end=0.3)},
    "gdp polar, window 0.1 to 0.9": {"method": gdp.Polar(start=0.1, end=0.9)},
    "gdp polar, window 0.25 to 0.75": {"method": gdp.Polar(start=0.25, end=0.75)},
    "gdp polar, window 0.4 to 0.9": {"method": gdp.Polar(start=0.4, end=0.9)},
    "gdp polar, window 0.25 to 0.75, closing of 150 steps": {"method": gdp.Polar(start=0.25, end=0.75, closing=150)},
    "gdp polar, memory 0.99": {"method": gdp.Polar(memory=0.99)},
    "gdp polar, importance per root of FLOPs": {"method": RootOfCost()},
    "gdp polar, root of the mean square": {"method": RootOfImportance()},
    "gdp polar, square of the mean": {"method": FirstOrder()},
    "gdp literal": {"method": "gdp"},
    "gdp literal, Adam's scale": {"method": gdp.methods.GDP(power=0.5)},
    "gdp literal, plain descent": {"method": gdp.methods.GDP(power=0.0)},
    "gdp literal, rate 0.1": {"method": gdp.methods.GDP(rate=0.1)},
    "gdp literal, eps from 0.01": {"method": gdp.methods.GDP(eps=(0.01, 1e-4))},
    "gdp literal, eps from 0.1": {"method": gdp.methods.GDP(eps=(0.1, 1e-4))},
    "gdp literal, eps from 0.01, rate 0.1": {"method": gdp.methods.GDP(eps=(0.01, 1e-4), rate=0.1)},
    "gdp literal, eps from 0.1, rate 0.1": {"method": gdp.methods.GDP(eps=(0.1, 1e-4), rate=0.1)},
    "gdp literal, eps from 0.1, 3/4 power": {"method": gdp.methods.GDP(eps=(0.1, 1e-4), power=0.75)},
    "gdp dais": {"method": "dais"},
    "gdp dais, budget of weight 2": {"method": gdp.methods.DAIS(budget=2.0)},
    "gdp annealed, nothing given back": {"method": gdp.Annealed(curvature=0.0)},
    "gdp annealed, all given back": {"method": gdp.Annealed(curvature=1.0)},
}
