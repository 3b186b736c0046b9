"""Pruning methods: what says which channels matter, and how gates close."""

from gdp.methods.annealed import Annealed, indicator
from gdp.methods.base import Batches, GateFamily, Moment, anneal
from gdp.methods.polar import Polar, move, sensitivity
from gdp.methods.registry import Kind, family_of
from gdp.methods.schedule import Window

__all__ = [
    "Annealed",
    "Batches",
    "GateFamily",
    "Kind",
    "Moment",
    "Polar",
    "Window",
    "anneal",
    "family_of",
    "indicator",
    "move",
    "sensitivity",
]
