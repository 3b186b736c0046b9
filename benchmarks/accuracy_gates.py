"""The gates of the comparison: gdp's own, and variants that were tried, as options or small subclasses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import gdp
from gdp.gates import by_channel


class Magnitude(gdp.Polar):
    """Keeps what has the largest weights: the squared norm of all weights that read a channel."""

    def worth(self, state: dict[str, Tensor], moment: Any) -> Tensor:
        readers = moment.gates.readers
        norms = [r.weight.detach().square().transpose(0, r.dim).flatten(1).sum(1) for r in readers]
        return by_channel(moment.gates, norms)


class RootOfCost(gdp.Polar):
    """Worth per square root of FLOPs, instead of worth per FLOP."""

    def worth(self, state: dict[str, Tensor], moment: Any) -> Tensor:
        cost = moment.cost.marginal(moment.gates.opened)[moment.gates.group_of]
        return state["worth"].cpu().double() * cost.clamp_min(1).sqrt()


class RootOfWorth(gdp.Polar):
    """The root of the mean squared gate gradient, instead of the mean square."""

    def worth(self, state: dict[str, Tensor], moment: Any) -> Tensor:
        return state["worth"].sqrt()


class FirstOrder(gdp.Polar):
    """The square of the mean gate gradient: what is left of the mean square without the noise of the batches."""

    def see(self, state: dict[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        return {"worth": self.memory * state["worth"] + (1 - self.memory) * gradient}

    def worth(self, state: dict[str, Tensor], moment: Any) -> Tensor:
        return state["worth"].square()


# arguments of GDPCallback, besides the target
GATES: dict[str, dict[str, Any]] = {
    "gdp polar": {},
    "gdp polar, at once": {"gate": gdp.Polar(start=0.0, end=0.05), "shrink": 20},
    "gdp annealed": {"gate": "annealed"},
    "gdp magnitude": {"gate": Magnitude()},
}

VARIANTS: dict[str, dict[str, Any]] = {
    "gdp polar, window 0 to 0.3": {"gate": gdp.Polar(start=0.0, end=0.3)},
    "gdp polar, window 0.1 to 0.9": {"gate": gdp.Polar(start=0.1, end=0.9)},
    "gdp polar, window 0.25 to 0.75": {"gate": gdp.Polar(start=0.25, end=0.75)},
    "gdp polar, window 0.4 to 0.9": {"gate": gdp.Polar(start=0.4, end=0.9)},
    "gdp polar, window 0.25 to 0.75, glide of 150 steps": {"gate": gdp.Polar(start=0.25, end=0.75, glide=150)},
    "gdp polar, memory 0.99": {"gate": gdp.Polar(memory=0.99)},
    "gdp polar, worth per root of FLOPs": {"gate": RootOfCost()},
    "gdp polar, root of the mean square": {"gate": RootOfWorth()},
    "gdp polar, square of the mean": {"gate": FirstOrder()},
    "gdp annealed, nothing given back": {"gate": gdp.Annealed(curvature=0.0)},
    "gdp annealed, all given back": {"gate": gdp.Annealed(curvature=1.0)},
}
