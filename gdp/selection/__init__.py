"""Select the channels that stay for a number of FLOPs: constraints on widths, the budget, the search."""

from gdp.selection.budget import allowed_fraction, check_reachable, check_target, lowest_flops
from gdp.selection.constraints import WidthConstraints, check_width_options
from gdp.selection.latency import UNITS, latency_model
from gdp.selection.ranking import Ranking
from gdp.selection.select import Selection, select_channels, select_for_schedule

__all__ = [
    "UNITS",
    "Ranking",
    "Selection",
    "WidthConstraints",
    "allowed_fraction",
    "check_reachable",
    "check_target",
    "check_width_options",
    "latency_model",
    "lowest_flops",
    "select_channels",
    "select_for_schedule",
]
