"""Elementwise operators: units that meet are the same unit, and parameters that meet them are cut along with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gdp.tracing.labels import Labels
from gdp.tracing.op_call import OpCall
from gdp.tracing.trace_state import ParamRef


def elementwise(call: OpCall) -> Any:
    """Tie the units that meet in an elementwise operator.

    An operand of size 1 that is broadcast over different units (a mask over channels) ties nothing; its own unit must
    stay. Parameters broadcast against units are noted as carrying them.
    """
    activations = [o for o in call.operands() if isinstance(o, Labels)]
    weights = [o for o in call.operands() if isinstance(o, ParamRef)]
    if not activations and len(weights) == 1 and call.shape == weights[0].shape:  # can be cut, but no longer be gated
        return call.result(ParamRef(weights[0].name, weights[0].shape, weights[0].coords, exact=False))
    if not activations:
        activations, weights = [call.state.as_activation(w) for w in weights], []
    merged = _merge(call, activations)
    for weight in weights:
        _carry_elementwise(call, weight, merged)
    return call.result(Labels(merged.ids, call.shape))


def _merge(call: OpCall, activations: list[Labels]) -> Labels:
    ndim = len(call.shape)
    ids = [_pad_dims(a.ids, ndim) for a in activations]
    sizes = [(1,) * (ndim - len(a.shape)) + a.shape for a in activations]
    varies = [any(i.shape[d] > 1 for i in ids) for d in range(ndim)]
    kept: list[Tensor] = []
    for operand, size in zip(ids, sizes, strict=True):
        if any(size[d] == 1 and call.shape[d] > 1 and varies[d] for d in range(ndim)):
            call.freeze(operand, f"one channel is broadcast over many in {call.location}")
        else:
            kept.append(operand)
    if not kept:
        return Labels.frozen(call.shape)
    kept = list(torch.broadcast_tensors(*kept))
    for other in kept[1:]:
        call.channel_ids.union(kept[0], other, f"meets channels that must stay in {call.location}")
    return Labels(kept[0], call.shape)


def _carry_elementwise(call: OpCall, weight: ParamRef, units: Labels) -> None:
    """Note along which dimension of `weight` the units it meets run."""
    ndim = len(units.shape)
    ids = _pad_dims(units.ids, ndim)
    offset = ndim - len(weight.shape)
    if not any(ids.shape[offset + d] > 1 and size > 1 for d, size in enumerate(weight.shape)):
        return  # a scalar or a table over positions: nothing of it belongs to a unit
    coords, met = torch.broadcast_tensors(
        _pad_dims(weight.coordinates(), ndim), _drop_broadcast(ids, weight.shape, offset)
    )
    coords, met = coords.reshape(-1), met.reshape(-1)
    stored = call.state.shapes[weight.name]
    owner = torch.zeros(torch.Size(stored).numel(), dtype=torch.long).scatter_(0, coords, met)
    call.channel_ids.union(owner[coords], met, f"shares {weight.name} with channels that must stay")
    labels = Labels.of(owner.view(stored))
    dims = [d for d in range(len(stored)) if labels.varies(d)]
    if len(dims) == 1:
        call.state.carry(weight.name, dims[0], labels.ids.reshape(-1), call.location)
    else:
        call.freeze(met, f"{weight.name} varies with channels along several dimensions in {call.location}")
        call.state.keep_shape(weight, f"used along several dimensions in {call.location}")


def _pad_dims(t: Tensor, ndim: int) -> Tensor:
    return t.reshape((1,) * (ndim - t.dim()) + tuple(t.shape))


def _drop_broadcast(ids: Tensor, shape: tuple[int, ...], offset: int) -> Tensor:
    """Where the weight is broadcast, one index stands for all."""
    for dim in range(ids.dim()):
        if dim < offset or shape[dim - offset] == 1:
            ids = ids.narrow(dim, 0, 1)
    return ids
