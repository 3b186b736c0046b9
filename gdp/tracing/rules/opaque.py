"""Rules of operators that are left alone: products of activations, attention, tables of rows, new tensors."""

from __future__ import annotations

from math import prod
from typing import Any

from gdp.tracing.labels import Labels
from gdp.tracing.op_call import OpCall


def matmul(call: OpCall) -> Any:
    """Products of activations (attention) are left alone; their FLOPs do not change."""
    shapes = [o.shape for o in call.operands()][-2:]
    call.add_flops(prod(shapes[0]) * shapes[1][-1])
    return call.freeze_all(f"{call.location} mixes channels")


def attention(call: OpCall) -> Any:
    """Attention weighs positions by all channels of a head; heads are left alone."""
    return call.freeze_all(f"{call.location} is attention, whose heads are left alone")


def lookup(call: OpCall) -> Any:
    """Rows of a table (nn.Embedding) are looked up by number."""
    reason = f"{call.location} looks up rows of a table, which is left alone"
    call.freeze_layer(call.shape[-1], reason)
    return call.freeze_all(reason)


def constant(call: OpCall) -> Any:
    """Tensors made in `forward` have the size that is written there."""
    return call.result(Labels.frozen(call.shape))
