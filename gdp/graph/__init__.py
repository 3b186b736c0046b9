"""What can be cut in a network, what it costs, and the plan of a cut: plain records that every other folder reads."""

from gdp.graph.channel_graph import Axis, ChannelGraph, ChannelGroup, Frozen
from gdp.graph.cut_plan import CutPlan
from gdp.graph.flop_model import FlopModel
from gdp.graph.residual_branch import ResidualBranch

__all__ = ["Axis", "ChannelGraph", "ChannelGroup", "CutPlan", "FlopModel", "Frozen", "ResidualBranch"]
