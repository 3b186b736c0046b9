"""Elementwise operators: units that meet are the same unit, and parameters that meet them are cut along with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gdp.tracing.labels import Labels
from gdp.tracing.op_call import Call, Weight


def pointwise(call: Call) -> Any:
    """Tie the units that meet in an elementwise operator.

    An operand of size 1 that is broadcast over different units (a mask over channels) ties nothing; its own unit must
    stay. Parameters broadcast against units are noted as carrying them.
    """
    activations = [o for o in call.operands() if isinstance(o, Labels)]
    weights = [o for o in call.operands() if isinstance(o, Weight)]
    if not activations and len(weights) == 1 and call.shape == weights[0].shape:  # can be cut, but no longer be gated
        return call.result(Weight(weights[0].name, weights[0].shape, weights[0].coords, exact=False))
    if not activations:
        activations, weights = [call.walk.as_activation(w) for w in weights], []
    merged = _merge(call, activations)
    for weight in weights:
        _carry_elementwise(call, weight, merged)
    return call.result(Labels(merged.ids, call.shape))


def _merge(call: Call, activations: list[Labels]) -> Labels:
    ndim = len(call.shape)
    ids = [_lift(a.ids, ndim) for a in activations]
    sizes = [(1,) * (ndim - len(a.shape)) + a.shape for a in activations]
    varies = [any(i.shape[d] > 1 for i in ids) for d in range(ndim)]
    kept: list[Tensor] = []
    for operand, size in zip(ids, sizes, strict=True):
        if any(size[d] == 1 and call.shape[d] > 1 and varies[d] for d in range(ndim)):
            call.freeze(operand, f"one channel is broadcast over many in {call.where}")
        else:
            kept.append(operand)
    if not kept:
        return Labels.stay(call.shape)
    kept = list(torch.broadcast_tensors(*kept))
    for other in kept[1:]:
        call.units.tie(kept[0], other, f"meets channels that must stay in {call.where}")
    return Labels(kept[0], call.shape)


def _carry_elementwise(call: Call, weight: Weight, units: Labels) -> None:
    """Note along which dimension of `weight` the units it meets run."""
    ndim = len(units.shape)
    ids = _lift(units.ids, ndim)
    offset = ndim - len(weight.shape)
    if not any(ids.shape[offset + d] > 1 and size > 1 for d, size in enumerate(weight.shape)):
        return  # a scalar or a table over positions: nothing of it belongs to a unit
    coords, met = torch.broadcast_tensors(_lift(weight.full(), ndim), _trim(ids, weight.shape, offset))
    coords, met = coords.reshape(-1), met.reshape(-1)
    stored = call.walk.shapes[weight.name]
    owner = torch.zeros(torch.Size(stored).numel(), dtype=torch.long).scatter_(0, coords, met)
    call.units.tie(owner[coords], met, f"shares {weight.name} with channels that must stay")
    labels = Labels.of(owner.view(stored))
    dims = [d for d in range(len(stored)) if labels.varies(d)]
    if len(dims) == 1:
        call.walk.carry(weight.name, dims[0], labels.ids.reshape(-1), call.where)
    else:
        call.freeze(met, f"{weight.name} varies with channels along several dimensions in {call.where}")
        call.walk.fix(weight, f"used along several dimensions in {call.where}")


def _lift(t: Tensor, ndim: int) -> Tensor:
    return t.reshape((1,) * (ndim - t.dim()) + tuple(t.shape))


def _trim(ids: Tensor, shape: tuple[int, ...], offset: int) -> Tensor:
    """Where the weight is broadcast, one index stands for all."""
    for dim in range(ids.dim()):
        if dim < offset or shape[dim - offset] == 1:
            ids = ids.narrow(dim, 0, 1)
    return ids
