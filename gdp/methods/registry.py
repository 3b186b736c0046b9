"""The kinds of gates that have a name."""

from __future__ import annotations

from typing import Literal

from gdp.errors import GDPError
from gdp.methods.annealed import Annealed
from gdp.methods.base import GateFamily
from gdp.methods.polar import Polar

Kind = Literal["polar", "annealed"]
KINDS: dict[str, type[GateFamily]] = {"polar": Polar, "annealed": Annealed}


def family_of(gate: Kind | GateFamily) -> GateFamily:
    """The family of that name, or the one that was given.

    Raises:
        GDPError: it is neither.
    """
    if isinstance(gate, GateFamily):
        return gate
    if not isinstance(gate, str) or gate not in KINDS:
        raise GDPError(
            f"Expected `gate` to be {' or '.join(map(repr, KINDS))}, or gdp.Polar(...), gdp.Annealed(...) or another "
            f"gdp.GateFamily, but got {gate!r}."
        )
    return KINDS[gate]()
