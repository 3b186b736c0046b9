"""Pruning methods: what says which channels matter, and how gates close. All that an author of one needs is here."""

from gdp.gates import Activation, ChannelTensor, Role, Seen
from gdp.methods.annealed import Annealed
from gdp.methods.base import LearningBatches, MethodState, PruningMethod, anneal
from gdp.methods.chex import CHEX
from gdp.methods.context import StepContext
from gdp.methods.contract import check_importance, check_method, check_value
from gdp.methods.cpmc import CPMC
from gdp.methods.dais import DAIS
from gdp.methods.dcp import DCP
from gdp.methods.fpgm import FPGM
from gdp.methods.gliding import GlidingGates, polarize
from gdp.methods.helpers import by_channel, globally, matrices, rank_match, relative, uniform
from gdp.methods.l1 import L1
from gdp.methods.l2 import L2
from gdp.methods.polar import Polar, sensitivity
from gdp.methods.random import Random
from gdp.methods.registry import get, names, resolve_method
from gdp.methods.repetition import Repetition
from gdp.methods.schedule import Schedule, Window
from gdp.methods.taylor import Taylor

__all__ = [
    "CHEX",
    "CPMC",
    "DAIS",
    "DCP",
    "FPGM",
    "L1",
    "L2",
    "Activation",
    "Annealed",
    "ChannelTensor",
    "GlidingGates",
    "LearningBatches",
    "MethodState",
    "Polar",
    "PruningMethod",
    "Random",
    "Repetition",
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
    "relative",
    "resolve_method",
    "sensitivity",
    "uniform",
]
