"""Gates on the weights that read channels, and their gradients."""

from gdp.gates.channel_tensors import ROLES, ChannelTensor, Role, channel_sums
from gdp.gates.functions import indicator, polar_gate
from gdp.gates.gated_layers import gated_weight, products_shown
from gdp.gates.gates import Gates
from gdp.gates.gradients import gate_gradient, gate_gradients, held_out_gradients, sum_by_channel
from gdp.gates.insert import gates_in, insert_gates
from gdp.gates.passes import observed, passes_shown
from gdp.gates.readers import fold_copies
from gdp.gates.seen import Activation, Seen

__all__ = [
    "ROLES",
    "Activation",
    "ChannelTensor",
    "Gates",
    "Role",
    "Seen",
    "channel_sums",
    "fold_copies",
    "gate_gradient",
    "gate_gradients",
    "gated_weight",
    "gates_in",
    "held_out_gradients",
    "indicator",
    "insert_gates",
    "observed",
    "passes_shown",
    "polar_gate",
    "products_shown",
    "sum_by_channel",
]
