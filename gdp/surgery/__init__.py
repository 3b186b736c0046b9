"""Cuts of a network: on trial, on the way and for good; every one is compared and can be undone."""

from gdp.surgery.check import check, preflight, trained_readers_only
from gdp.surgery.cut import Undo, check_shapes, cut, select
from gdp.surgery.remove import fold, remove
from gdp.surgery.remove_zeros import remove_zeros
from gdp.surgery.shrink import cut_to, cuttable, planned, refuse_optimizers, shrink

__all__ = [
    "Undo",
    "check",
    "check_shapes",
    "cut",
    "cut_to",
    "cuttable",
    "fold",
    "planned",
    "preflight",
    "refuse_optimizers",
    "remove",
    "remove_zeros",
    "select",
    "shrink",
    "trained_readers_only",
]
