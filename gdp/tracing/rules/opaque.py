"""Freeze the channels of operators that are left alone: products of activations, attention, embeddings, new tensors."""

from __future__ import annotations

from math import prod
from typing import Any

from gdp.tracing.labels import Labels
from gdp.tracing.op_call import OpCall


def matmul(call: OpCall) -> Any:
    """Freeze both factors of a product of activations. FLOPs: rows x inner size x columns, a constant."""
    shapes = [o.shape for o in call.operands()][-2:]
    call.add_flops(prod(shapes[0]) * shapes[1][-1])
    return call.freeze_all(f"{call.location} mixes channels")


def attention(call: OpCall) -> Any:
    """Freeze what enters attention, which weighs positions by all channels of a head."""
    return call.freeze_all(f"{call.location} is attention, whose heads are left alone")


def lookup(call: OpCall) -> Any:
    """Freeze the columns of a table whose rows are looked up by number (nn.Embedding)."""
    reason = f"{call.location} looks up rows of a table, which is left alone"
    call.freeze_layer(call.shape[-1], reason)
    return call.freeze_all(reason)


def positions(call: OpCall) -> Any:
    """Freeze what is taken by numbers in a tensor, since the numbers follow no cut."""
    return call.freeze_all(f"{call.location} takes entries at fixed positions")


def constant(call: OpCall) -> Any:
    """Return frozen labels for a tensor made in `forward`, since its size is written there."""
    return call.result(Labels.frozen(call.shape))
