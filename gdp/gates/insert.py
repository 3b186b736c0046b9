"""Put gates into a network, and find them there."""

from __future__ import annotations

from torch import nn

from gdp.errors import GDPError
from gdp.gates.functions import GateFunction
from gdp.gates.gated_layers import MARK_KEY
from gdp.gates.gates import Gates
from gdp.graph import ChannelGraph
from gdp.utils import check_one_device, check_ungated, named_tensors


def insert_gates(
    model: nn.Module, graph: ChannelGraph, value: GateFunction | None = None, temperature: float = 0.1
) -> Gates:
    """Put a gate in front of every conv and linear that reads a group; the network computes what it did before.

    Args:
        model: the network.
        graph: what `gdp.trace` found in it.
        value: makes a gate's value of its x and the temperature, 0 of 0 and 1 of 1; default: the polar gate.
        temperature: to begin with.

    Raises:
        GDPError: the network has gates already, is split among devices, or the graph belongs to another network.
    """
    check_ungated(model)
    check_one_device(model, model)
    tensors = named_tensors(model)
    carried = {axis.tensor for group in graph.groups for axis in group.tensors}
    for name, shape in graph.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if name in carried and found != shape:
            raise GDPError(
                f"The graph was traced with {name} of shape {shape}, but {type(model).__name__} has {found}; "
                "trace the network again."
            )
    return Gates(model, graph, value, temperature)


def gates_in(model: nn.Module) -> list[Gates]:
    """Return the gates that are in a module, whoever has put them there.

    Args:
        model: a network or a module around networks. Copies of a gated network and unpickled ones have gates beside
            their weights as well, of which no one knows more than these are.
    """
    marks = [mark for module in model.modules() if (mark := vars(module).get(MARK_KEY)) is not None]
    owners = [mark.owner() for mark in marks if not mark.is_of_copy]
    return list({id(gates): gates for gates in owners if isinstance(gates, Gates)}.values())
