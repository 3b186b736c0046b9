"""Gates on the weights that read channels, and their gradients."""

from gdp.gates.functions import polar
from gdp.gates.gated_layers import HOOKS, fold_copies, gated_weight
from gdp.gates.gates import Gates, insert_gates
from gdp.gates.gradients import by_channel, gate_gradient, gate_gradients, held_out_gradients

__all__ = [
    "HOOKS",
    "Gates",
    "by_channel",
    "fold_copies",
    "gate_gradient",
    "gate_gradients",
    "gated_weight",
    "held_out_gradients",
    "insert_gates",
    "polar",
]
