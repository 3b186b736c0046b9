"""Define the records that all other folders read: channel groups, their FLOPs, and the plan of a cut."""

from gdp.graph.channel_graph import Axis, ChannelGraph, ChannelGroup, Frozen
from gdp.graph.cut_plan import CutPlan
from gdp.graph.flop_model import FlopModel
from gdp.graph.residual_branch import ResidualBranch

__all__ = ["Axis", "ChannelGraph", "ChannelGroup", "CutPlan", "FlopModel", "Frozen", "ResidualBranch"]
