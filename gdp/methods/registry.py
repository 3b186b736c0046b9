"""The kinds of gates that have a name."""

from __future__ import annotations

from typing import Literal

from gdp.errors import GDPError
from gdp.methods.annealed import Annealed
from gdp.methods.base import PruningMethod
from gdp.methods.polar import Polar

MethodName = Literal["polar", "annealed"]
METHODS: dict[str, type[PruningMethod]] = {"polar": Polar, "annealed": Annealed}


def resolve_method(method: MethodName | PruningMethod) -> PruningMethod:
    """The family of that name, or the one that was given.

    Raises:
        GDPError: it is neither.
    """
    if isinstance(method, PruningMethod):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise GDPError(
            f"Expected `gate` to be {' or '.join(map(repr, METHODS))}, or gdp.Polar(...), gdp.Annealed(...) or another "
            f"gdp.GateFamily, but got {method!r}."
        )
    return METHODS[method]()
