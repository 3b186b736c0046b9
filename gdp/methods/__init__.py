"""Pruning methods: what says which channels matter, and how gates close."""

from gdp.methods.annealed import Annealed
from gdp.methods.base import HeldOutSpec, PruningMethod, StepContext, anneal
from gdp.methods.polar import Polar, polarize, sensitivity
from gdp.methods.registry import MethodName, resolve_method
from gdp.methods.schedule import Schedule, Window

__all__ = [
    "Annealed",
    "HeldOutSpec",
    "MethodName",
    "Polar",
    "PruningMethod",
    "Schedule",
    "StepContext",
    "Window",
    "anneal",
    "polarize",
    "resolve_method",
    "sensitivity",
]
