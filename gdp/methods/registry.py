"""The methods that have a name."""

from __future__ import annotations

from typing import Literal

from gdp.errors import GDPError
from gdp.methods.annealed import Annealed
from gdp.methods.base import PruningMethod
from gdp.methods.polar import Polar

MethodName = Literal["polar", "annealed"]
METHODS: dict[str, type[PruningMethod]] = {"polar": Polar, "annealed": Annealed}


def resolve_method(method: MethodName | PruningMethod) -> PruningMethod:
    """Return the method of that name, with its defaults, or the one that was given.

    Args:
        method: a name, or a method with options.

    Raises:
        GDPError: it is neither.
    """
    if isinstance(method, PruningMethod):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise GDPError(
            f"Expected `method` to be {' or '.join(map(repr, METHODS))}, or gdp.Polar(...), gdp.Annealed(...) or "
            f"another gdp.PruningMethod, but got {method!r}."
        )
    return METHODS[method]()
