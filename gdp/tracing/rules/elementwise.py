"""Join the channels that meet in elementwise operators; parameters that meet them are cut along with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gdp.tracing.labels import Labels, either
from gdp.tracing.op_call import OpCall
from gdp.tracing.trace_state import ParamRef


def elementwise(call: OpCall) -> Any:
    """Join the channels that meet in an elementwise operator.

    An operand of size 1 that is broadcast over several channels (a mask over channels) joins nothing; its own channel
    is frozen. Parameters broadcast against channels are noted as carrying them.
    """
    activations = [o for o in call.operands() if isinstance(o, Labels)]
    weights = [o for o in call.operands() if isinstance(o, ParamRef)]

    # a parameter whose values alone change can still be cut, but no longer be gated
    if not activations and len(weights) == 1 and call.shape == weights[0].shape:
        return call.result(ParamRef(weights[0].name, weights[0].shape, weights[0].coords, exact=False))

    # a weight whose filters another parameter scales is used as it is stored, since entries that are read keep apart
    if not activations and call.op == "mul" and (scaled := _scaled_weight(call, weights)) is not None:
        return call.result(scaled)

    # parameters that meet each other otherwise, but no activation, are treated as activations
    if not activations:
        activations, weights = [call.state.as_activation(w) for w in weights], []
    merged = _merge(call, activations)
    for weight in weights:
        _carry_elementwise(call, weight, merged)
    return call.result(Labels(merged.ids, call.shape))


def _scaled_weight(call: OpCall, operands: list[ParamRef]) -> ParamRef | None:
    """Return the weight in a product of a weight and a parameter that scales all entries along dimension 1 alike.

    A skeleton or mask of filters and kernel positions is one. What is gated or cut along dimension 1 of the weight is
    so in the product. Along dimension 0 the other parameter carries the channels of the weight.

    Args:
        call: the product.
        operands: of it, all of them parameters or buffers.

    Returns:
        The weight, or None where this is no such product.
    """
    weights = [p for p in operands if p.is_direct and p.shape == call.shape and len(p.shape) > 1 and p.shape[1] > 1]
    if len(operands) != 2 or len(weights) != 1:
        return None
    (weight,), (factor,) = weights, [p for p in operands if p is not weights[0]]
    if _pad_dims(factor.coordinates(), len(weight.shape)).shape[1] > 1:
        return None
    known = call.state.axes.get((weight.name, 0))
    ids = call.channel_ids.new(weight.shape[0]) if known is None else known
    call.state.carry(weight.name, 0, ids, call.location)
    _carry_elementwise(call, factor, Labels.along(ids, 0, weight.shape))
    return weight


def _merge(call: OpCall, activations: list[Labels]) -> Labels:
    """Join the channels of several activations, and return the labels of the result.

    Args:
        call: the operator.
        activations: its operands, whose shapes broadcast to that of the result.
    """
    # pad all operands with dimensions of size 1 in front, as broadcasting does
    ndim = len(call.shape)
    ids = [_pad_dims(a.ids, ndim) for a in activations]
    sizes = [(1,) * (ndim - len(a.shape)) + a.shape for a in activations]

    # leave out, and freeze, operands with one channel where others have many
    varies = [any(i.shape[d] > 1 for i in ids) for d in range(ndim)]
    kept: list[Tensor] = []
    for operand, size in zip(ids, sizes, strict=True):
        if any(size[d] == 1 and call.shape[d] > 1 and varies[d] for d in range(ndim)):
            call.freeze(operand, f"one channel is broadcast over many in {call.location}")
        else:
            kept.append(operand)
    if not kept:
        return Labels.frozen(call.shape)

    # join the others, element by element
    merged, *others = torch.broadcast_tensors(*kept)
    for other in others:
        call.channel_ids.union(merged, other, f"meets channels that must stay in {call.location}")
        merged = either(merged, other)
    return Labels(merged, call.shape)


def _carry_elementwise(call: OpCall, weight: ParamRef, labels: Labels) -> None:
    """Note along which dimension of a parameter the channels run that it meets.

    Args:
        call: the operator.
        weight: the parameter, whose shape broadcasts to that of `labels`.
        labels: of the result.
    """
    ndim = len(labels.shape)
    ids = _pad_dims(labels.ids, ndim)
    coords = _pad_dims(Labels.of(weight.coordinates()).ids, ndim)  # of size 1 where it is broadcast, or was before
    if not any(ids.shape[d] > 1 and coords.shape[d] > 1 for d in range(ndim)):
        return  # a scalar or a table over positions: nothing of it belongs to a channel

    # pair every element of the parameter, by its place in the stored tensor, with the channel that it meets
    for dim in range(ndim):
        ids = ids.narrow(dim, 0, 1) if coords.shape[dim] == 1 else ids  # one index stands for all
    coords, met = torch.broadcast_tensors(coords, ids)
    coords, met = coords.reshape(-1), met.reshape(-1)

    # one channel per stored element; an element that meets several joins them
    stored = call.state.shapes[weight.name]
    owner = torch.zeros(torch.Size(stored).numel(), dtype=torch.long).scatter_(0, coords, met)
    call.channel_ids.union(owner[coords], met, f"shares {weight.name} with channels that must stay")

    # the tensor can be cut if the channels of its elements vary along one dimension only
    carried = Labels.of(owner.view(stored))
    dims = [d for d in range(len(stored)) if carried.varies(d)]
    if len(dims) == 1:
        call.state.carry(weight.name, dims[0], carried.ids.reshape(-1), call.location)
    else:
        call.freeze(met, f"{weight.name} varies with channels along several dimensions in {call.location}")
        call.state.keep_shape(weight, f"used along several dimensions in {call.location}")


def _pad_dims(t: Tensor, ndim: int) -> Tensor:
    """Return a tensor with dimensions of size 1 in front, so that it has `ndim` of them.

    Args:
        t: the tensor.
        ndim: wanted number of dimensions.
    """
    return t.reshape((1,) * (ndim - t.dim()) + tuple(t.shape))
