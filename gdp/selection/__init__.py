"""Which channels stay for a number of FLOPs: constraints on widths, the budget, the search."""

from gdp.selection.budget import allowance, check_reachable, check_target, lowest
from gdp.selection.constraints import Widths, check_widths
from gdp.selection.latency import UNITS, latency_model
from gdp.selection.ranking import Ranking
from gdp.selection.select import choose, select_channels

__all__ = [
    "UNITS",
    "Ranking",
    "Widths",
    "allowance",
    "check_reachable",
    "check_target",
    "check_widths",
    "choose",
    "latency_model",
    "lowest",
    "select_channels",
]
