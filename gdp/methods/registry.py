"""The methods that have a name."""

from __future__ import annotations

from difflib import get_close_matches

from gdp.errors import GDPError
from gdp.methods.annealed import Annealed
from gdp.methods.base import PruningMethod
from gdp.methods.bwcp import BWCP
from gdp.methods.catro import CATRO
from gdp.methods.chex import CHEX
from gdp.methods.cpmc import CPMC
from gdp.methods.dais import DAIS
from gdp.methods.dcp import DCP
from gdp.methods.ffr import FFR
from gdp.methods.fpgm import FPGM
from gdp.methods.gdp_literal import GDP
from gdp.methods.ghfp import GHFP
from gdp.methods.haste import HASTE
from gdp.methods.hesso import HESSO
from gdp.methods.hrank import HRank
from gdp.methods.hspg import HSPG
from gdp.methods.l1 import L1
from gdp.methods.l2 import L2
from gdp.methods.oicsr import OICSR
from gdp.methods.polar import Polar
from gdp.methods.polarization import Polarization
from gdp.methods.random import Random
from gdp.methods.repetition import Repetition
from gdp.methods.sfp import SFP
from gdp.methods.sgl import SGL
from gdp.methods.slimming import Slimming
from gdp.methods.taylor import Taylor

METHODS: dict[str, type[PruningMethod]] = {
    "annealed": Annealed,
    "bwcp": BWCP,
    "catro": CATRO,
    "chex": CHEX,
    "cpmc": CPMC,
    "dais": DAIS,
    "dcp": DCP,
    "ffr": FFR,
    "fpgm": FPGM,
    "gdp": GDP,
    "ghfp": GHFP,
    "haste": HASTE,
    "hesso": HESSO,
    "hrank": HRank,
    "hspg": HSPG,
    "l1": L1,
    "l2": L2,
    "oicsr": OICSR,
    "polar": Polar,
    "polarization": Polarization,
    "random": Random,
    "repetition": Repetition,
    "sfp": SFP,
    "sgl": SGL,
    "slimming": Slimming,
    "taylor": Taylor,
}


def names() -> list[str]:
    """Return the names of all methods, as `GDPCallback(method=...)` takes them."""
    return sorted(METHODS)


def get(name: str) -> type[PruningMethod]:
    """Return the class of the method of that name; its attributes are the options.

    Args:
        name: one of `names()`.

    Raises:
        GDPError: there is no such method.
    """
    if not isinstance(name, str) or name not in METHODS:
        close = get_close_matches(name.lower(), METHODS, 1) if isinstance(name, str) else []
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise GDPError(
            f"Expected `method` to be one of {', '.join(map(repr, names()))}, or one with options such as "
            f"gdp.Polar(end=0.8), or another gdp.PruningMethod, but got {name!r}.{meant}"
        )
    return METHODS[name]


def resolve_method(method: str | PruningMethod) -> PruningMethod:
    """Return the method of that name, with its defaults, or the one that was given.

    Args:
        method: a name, or a method with options.

    Raises:
        GDPError: it is neither.
    """
    return method if isinstance(method, PruningMethod) else get(method)()
