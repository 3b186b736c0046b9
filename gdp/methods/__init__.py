"""Pruning methods: what says which channels matter, and how gates close. All that an author of one needs is here."""

from gdp.gates import Activation, ChannelTensor, Role, Seen
from gdp.methods.annealed import Annealed
from gdp.methods.base import LearningBatches, MethodState, PruningMethod, anneal
from gdp.methods.bwcp import BWCP
from gdp.methods.catro import CATRO
from gdp.methods.chex import CHEX
from gdp.methods.context import StepContext
from gdp.methods.contract import check_finalized, check_importance, check_method, check_observe, check_value
from gdp.methods.cpmc import CPMC
from gdp.methods.dais import DAIS
from gdp.methods.dcp import DCP
from gdp.methods.ffr import FFR
from gdp.methods.fpgm import FPGM
from gdp.methods.gdp_literal import GDP
from gdp.methods.ghfp import GHFP
from gdp.methods.gliding import GlidingGates, polarize
from gdp.methods.hard_gates import HardGates
from gdp.methods.haste import HASTE
from gdp.methods.helpers import by_channel, globally, matrices, percentiles, rank_match, relative, uniform
from gdp.methods.hesso import HESSO
from gdp.methods.hrank import HRank
from gdp.methods.hspg import HSPG
from gdp.methods.l1 import L1
from gdp.methods.l2 import L2
from gdp.methods.oicsr import OICSR
from gdp.methods.polar import Polar, sensitivity
from gdp.methods.polarization import Polarization
from gdp.methods.purity import unchanged
from gdp.methods.random import Random
from gdp.methods.registry import get, names, resolve_method
from gdp.methods.repetition import Repetition
from gdp.methods.returned import check_factors, check_learned, check_scalar, check_state, check_vector
from gdp.methods.schedule import Schedule, Window
from gdp.methods.sfp import SFP
from gdp.methods.sgl import SGL
from gdp.methods.slimming import Slimming
from gdp.methods.taylor import Taylor
from gdp.methods.weights_of_channels import channel_norms, entry_counts

__all__ = [
    "BWCP",
    "CATRO",
    "CHEX",
    "CPMC",
    "DAIS",
    "DCP",
    "FFR",
    "FPGM",
    "GDP",
    "GHFP",
    "HASTE",
    "HESSO",
    "HSPG",
    "L1",
    "L2",
    "OICSR",
    "SFP",
    "SGL",
    "Activation",
    "Annealed",
    "ChannelTensor",
    "GlidingGates",
    "HRank",
    "HardGates",
    "LearningBatches",
    "MethodState",
    "Polar",
    "Polarization",
    "PruningMethod",
    "Random",
    "Repetition",
    "Role",
    "Schedule",
    "Seen",
    "Slimming",
    "StepContext",
    "Taylor",
    "Window",
    "anneal",
    "by_channel",
    "channel_norms",
    "check_factors",
    "check_finalized",
    "check_importance",
    "check_learned",
    "check_method",
    "check_observe",
    "check_scalar",
    "check_state",
    "check_value",
    "check_vector",
    "entry_counts",
    "get",
    "globally",
    "matrices",
    "names",
    "percentiles",
    "polarize",
    "rank_match",
    "relative",
    "resolve_method",
    "sensitivity",
    "unchanged",
    "uniform",
]
