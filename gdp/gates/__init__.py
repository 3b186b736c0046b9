"""Gates on the weights that read channels, and their gradients."""

from gdp.gates.functions import polar_gate
from gdp.gates.gated_layers import HOOKS, fold_copies, gated_weight
from gdp.gates.gates import Gates, insert_gates
from gdp.gates.gradients import gate_gradient, gate_gradients, held_out_gradients, sum_by_channel

__all__ = [
    "HOOKS",
    "Gates",
    "fold_copies",
    "gate_gradient",
    "gate_gradients",
    "gated_weight",
    "held_out_gradients",
    "insert_gates",
    "polar_gate",
    "sum_by_channel",
]
