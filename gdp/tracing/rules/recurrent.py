"""Read channels in recurrent layers, as a linear layer does; what these make themselves stays."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from gdp.tracing.labels import Labels
from gdp.tracing.op_call import OpCall
from gdp.tracing.trace_state import ParamRef

HIDDEN = "hidden units are fed back into all gates of {}, and stay"


def recurrent(call: OpCall) -> Any:
    """Read channels in LSTM, GRU and RNN of any depth: the first layer reads them, in one or two directions.

    FLOPs: fvcore counts none.
    """
    params, directions = call["params"], 1 + call["bidirectional"]
    per_direction = len(params) // (call["num_layers"] * directions)
    return _read(call, "data" if "data" in call.args else "input", params[: per_direction * directions : per_direction])


def cell(call: OpCall) -> Any:
    """Read channels in LSTMCell, GRUCell and RNNCell. FLOPs: sequences x elements of both weights."""
    sequences, source = prod(call.shape[:-1]), call.labels()
    rows, ids_in = call["w_ih"].shape[0], call.ids_along(source, len(source.shape) - 1)
    call.add_flops(sequences * rows, cols=ids_in)
    call.add_flops(sequences * prod(call["w_hh"].shape))
    return _read(call, "input", [call["w_ih"]])


def _read(call: OpCall, name: str, weights: list[Any]) -> Any:
    """Note that weights read the channels of the input along their last dimension; freeze all else.

    Args:
        call: the operator.
        name: of its argument that is the input.
        weights: those that read it.
    """
    reason = HIDDEN.format(call.location)
    call.freeze_layer(call.shape[-1], reason)
    if not all(isinstance(weight, ParamRef) and weight.is_direct for weight in weights):
        return call.freeze_all(f"a weight of {call.location} is computed in forward")

    # the weights that read the input keep their rows, and all other tensors keep their shapes
    source = call.labels(name)
    ids_in = call.ids_along(source, len(source.shape) - 1)
    for weight in weights:
        call.state.carry(weight.name, 1, ids_in, call.location)
        call.state.carry(weight.name, 0, torch.zeros(weight.shape[0], dtype=torch.long), call.location)
        call.state.read(weight.name, 1)
    for operand in call.operands():
        if isinstance(operand, Labels) and operand is not call[name]:
            call.freeze(operand.ids, reason)
        elif isinstance(operand, ParamRef) and operand not in weights:
            call.state.keep_shape(operand, reason)
    return call.frozen_results()
