"""gdp makes a convolutional network smaller while it trains, exactly at its FLOPs target (GDP, arXiv 2109.02220)."""

from gdp.annealed import Annealed
from gdp.callback import GDPCallback
from gdp.checkpoint import load_checkpoint
from gdp.errors import GDPError
from gdp.family import GateFamily
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph
from gdp.polar import Polar
from gdp.preflight import check
from gdp.pruner import Pruner
from gdp.removal import remove
from gdp.report import Report
from gdp.store import load_pruned, save_pruned
from gdp.trace import trace
from gdp.zeros import remove_zeros

__version__ = "0.1.0"

__all__ = [
    "Annealed",
    "ChannelGraph",
    "GDPCallback",
    "GDPError",
    "GateFamily",
    "Polar",
    "Pruner",
    "Report",
    "check",
    "insert_gates",
    "load_checkpoint",
    "load_pruned",
    "remove",
    "remove_zeros",
    "save_pruned",
    "trace",
]
