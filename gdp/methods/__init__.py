"""Pruning methods: what says which channels matter, and how gates close. All that an author of one needs is here."""

from gdp.gates import Activation, ChannelTensor, Role, Seen
from gdp.methods.annealed import Annealed
from gdp.methods.base import LearningBatches, MethodState, PruningMethod, anneal
from gdp.methods.context import StepContext
from gdp.methods.contract import check_importance, check_method, check_value
from gdp.methods.dais import DAIS
from gdp.methods.fpgm import Fpgm
from gdp.methods.gliding import GlidingGates, polarize
from gdp.methods.helpers import by_channel, globally, matrices, rank_match, uniform
from gdp.methods.l1 import L1
from gdp.methods.l2 import L2
from gdp.methods.polar import Polar, sensitivity
from gdp.methods.random import Random
from gdp.methods.registry import get, names, resolve_method
from gdp.methods.schedule import Schedule, Window
from gdp.methods.taylor import Taylor

__all__ = [
    "DAIS",
    "L1",
    "L2",
    "Activation",
    "Annealed",
    "ChannelTensor",
    "Fpgm",
    "GlidingGates",
    "LearningBatches",
    "MethodState",
    "Polar",
    "PruningMethod",
    "Random",
    "Role",
    "Schedule",
    "Seen",
    "StepContext",
    "Taylor",
    "Window",
    "anneal",
    "by_channel",
    "check_importance",
    "check_method",
    "check_value",
    "get",
    "globally",
    "matrices",
    "names",
    "polarize",
    "rank_match",
    "resolve_method",
    "sensitivity",
    "uniform",
]
