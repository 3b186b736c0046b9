"""gdp makes a convolutional network smaller while it trains, exactly at its FLOPs target (GDP, arXiv 2109.02220)."""

from gdp.errors import GDPError
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph
from gdp.lightning import GDPCallback, LayersCallback
from gdp.methods import Annealed, Polar, PruningMethod
from gdp.pruning import Pruner
from gdp.report import Report
from gdp.saving import load_checkpoint, load_pruned, save_pruned
from gdp.surgery import check, cut_like, make_plain, remove, remove_zeros, trace

__version__ = "0.1.0"

__all__ = [
    "Annealed",
    "ChannelGraph",
    "GDPCallback",
    "GDPError",
    "LayersCallback",
    "Polar",
    "Pruner",
    "PruningMethod",
    "Report",
    "check",
    "cut_like",
    "insert_gates",
    "load_checkpoint",
    "load_pruned",
    "make_plain",
    "remove",
    "remove_zeros",
    "save_pruned",
    "trace",
]

_FOLDERS = (
    "gates", "graph", "layers", "lightning", "methods", "pruning", "report", "saving", "selection", "surgery",
    "tracing", "utils",
)  # fmt: skip


def __dir__() -> list[str]:
    """Return the public names and the folders."""
    return sorted([*__all__, *_FOLDERS])
