"""What layers with weights do with channel units: convs, linears and norms. One rule per kind of operator."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from gdp.tracing.labels import FROZEN_ID, Labels
from gdp.tracing.op_call import OpCall
from gdp.tracing.rules import reshaping
from gdp.tracing.trace_state import ParamRef, TraceState


def conv(call: OpCall) -> Any:
    """Convolutions of any dimension, plain, depthwise, grouped and transposed.

    FLOPs as fvcore counts them: batch x positions x elements of the weight, one multiply-add being one FLOP.
    """
    weight, source = call.stored_param("weight"), call.labels()
    transposed = "transpose" in call.op
    kernel = tuple(call["weight"].shape)
    channel_dim = len(source.shape) - len(kernel) + 1
    positions = (source.shape if transposed else call.shape)[channel_dim + 1 :]
    coef = prod(call.shape[:channel_dim]) * prod(positions) * prod(kernel[2:])
    if isinstance(call["padding"], str):  # fvcore does not count these
        coef = 0
    units_in, groups = call.ids_along(source, channel_dim), call["groups"]
    per_in, per_out = len(units_in) // groups, call.shape[channel_dim] // groups
    constant = torch.zeros(kernel[1], dtype=torch.long)
    if weight is None and transposed:
        call.add_flops(coef * prod(kernel[:2]))
        return _computed(call, call.shape[channel_dim])
    if weight is None:
        units_out = _computed_rows(call, units_in, groups)
        call.add_flops(coef, units_out, constant)
    elif groups > 1 and _by_whole_groups(call.state, weight, groups, per_in, per_out):
        rows = units_in.view(groups, per_in)
        call.channel_ids.union(rows[:, :1], rows, f"grouped with channels that must stay in {call.location}")
        units_out = rows[:, 0].repeat_interleave(per_out)
        carried = rows[:, 0].repeat_interleave(per_in) if transposed else units_out
        call.state.carry(weight.name, 0, carried, call.location)
        call.add_flops(coef, carried, constant)
    else:
        rows = units_in.view(groups, per_in)  # every group keeps its size in step with the others
        call.channel_ids.union(rows[:1], rows, f"grouped with channels that must stay in {call.location}")
        fresh = call.channel_ids.new(per_out)
        units_out = fresh.repeat(groups)
        axes = (units_in, fresh) if transposed else (units_out, rows[0])
        call.state.carry(weight.name, 0, axes[0], call.location)
        call.state.carry(weight.name, 1, axes[1], call.location)
        call.state.readers.add((weight.name, 0 if transposed else 1))
        call.state.producers.add((weight.name, 1 if transposed else 0))
        call.add_flops(coef, *axes)
    _carry_vector(call, "bias", units_out)
    return Labels.along(units_out, channel_dim, call.shape)


def _by_whole_groups(walk: TraceState, weight: ParamRef, groups: int, per_in: int, per_out: int) -> bool:
    """Whether a grouped conv loses whole groups, as a depthwise one does, or every group loses the same channels.

    Whatever leaves more units to choose from; whole groups only where a module holds `groups` and can be told.
    """
    if per_in == 1:
        return True
    if weight.name not in walk.settable_groups:
        return False
    walk.two_way_grouping.add(weight.name)
    return (groups >= max(per_in, per_out)) != (weight.name in walk.flipped_grouping)


def linear(call: OpCall) -> Any:
    """`y = x W^T + b`: reads units along the last dimension, makes new ones. FLOPs: rows x in x out."""
    weight, source = call.stored_param("weight"), call.labels()
    units_in, rows = call.ids_along(source, len(source.shape) - 1), prod(source.shape[:-1])
    if weight is None:
        units_out = _computed_rows(call, units_in, 1)
        call.add_flops(rows, units_out, torch.zeros(len(units_in), dtype=torch.long))
    else:
        units_out = call.channel_ids.new(weight.shape[0])
        call.state.carry(weight.name, 1, units_in, call.location)
        call.state.carry(weight.name, 0, units_out, call.location)
        call.state.readers.add((weight.name, 1))
        call.state.producers.add((weight.name, 0))
        call.add_flops(rows, units_out, units_in)
    _carry_vector(call, "bias", units_out)
    return Labels.along(units_out, len(call.shape) - 1, call.shape)


def _computed_rows(call: OpCall, units_in: Tensor, groups: int) -> Tensor:
    """Units of the filters of a weight that is computed (standardised, normalised): they can go, its inputs can't.

    A filter of it depends on all of its entries, so none of them can be gated or cut.
    """
    rows = call.ids_along(call.labels("weight"), 0)
    if groups == len(units_in) > 1:
        units_in = units_in.repeat_interleave(len(rows) // groups)
        call.channel_ids.union(rows, units_in, f"the weight of {call.location} is computed in forward")
        return units_in
    call.freeze(units_in, f"the weight of {call.location}, which reads it, is computed in forward from all its entries")
    by_group = rows.view(groups, -1)
    call.channel_ids.union(by_group[:1], by_group, f"the weight of {call.location} is computed in forward")
    rows = by_group[0].repeat(groups)
    if bool((rows == FROZEN_ID).all()):
        call.freeze_layer(
            len(rows), f"the weight of {call.location} is computed in forward in a way that ties its filters"
        )
    made = (key for key, vector in call.state.axes.items() if len(vector) and vector[0] == rows[0] != FROZEN_ID)
    call.state.producers.update(list(made)[:1])
    return rows


def _computed(call: OpCall, channels: int) -> Any:
    call.freeze_layer(channels, f"the weight of {call.location} is computed in forward")
    return call.freeze_all(f"the weight of {call.location} is computed in forward")


def weight_norm(call: OpCall) -> Any:
    """`v * g / |v|`, every filter by itself."""
    if call["dim"] != 0:
        return call.freeze_all(f"{call.location} ties all filters")
    v, g = (call.ids_along(call.labels(name), 0) for name in ("v", "g"))
    call.channel_ids.union(v, g, f"meets a constant in {call.location}")
    return call.result(Labels.along(v, 0, call["v"].shape))


def channel_norm(call: OpCall) -> Any:
    """Batch and instance norm: every channel by itself. FLOPs as fvcore counts them, fewer with running statistics."""
    source = call.labels()
    units = call.ids_along(source, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        _carry_vector(call, name, units)
    running = call.op == "batch_norm" and not call["training"]
    per_element = ((4, 5), (1, 2))[running][call["weight"] is not None]
    call.add_flops(per_element * prod(source.shape) // source.shape[1], units)
    return Labels.along(units, 1, call.shape)


def prelu(call: OpCall) -> Any:
    weight = call["weight"]
    if isinstance(weight, ParamRef) and prod(weight.shape) > 1:
        units = call.ids_along(call.labels(), 1)
        _carry_vector(call, "weight", units)
        return Labels.along(units, 1, call.shape)
    return reshaping.pass_through(call)


def layer_norm(call: OpCall) -> Any:
    """Statistics over the last dimensions: channels among them stay, channels beside them go as a whole."""
    source = call.labels()
    per_element = 5 if call["weight"] is not None else 4
    normed = range(len(source.shape) - len(call["normalized_shape"]), len(source.shape))
    beside = [d for d in range(len(source.shape)) if source.varies(d)]
    if len(beside) == 1 and beside[0] not in normed:
        dim = beside[0]
        call.add_flops(per_element * prod(source.shape) // source.shape[dim], call.ids_along(source, dim))
        return call.result(source)
    call.add_flops(per_element * prod(source.shape))
    return call.freeze_all(f"{call.location} mixes channels") if beside else call.result(source)


def group_norm(call: OpCall) -> Any:
    """Statistics over the channels of a group: whole groups can go, where a module holds their number."""
    source, groups = call.labels(), call["num_groups"]
    per_element = 5 if call["weight"] is not None else 4
    if groups == 1 or call.stored_param("weight") is None:
        call.add_flops(per_element * prod(source.shape))
        return call.freeze_all(f"{call.location} mixes channels")
    rows = call.ids_along(source, 1).view(groups, -1)
    call.channel_ids.union(rows[:, :1], rows, f"normalized with channels that must stay in {call.location}")
    units = rows[:, 0].repeat_interleave(rows.shape[1])
    for name in ("weight", "bias"):
        _carry_vector(call, name, units)
    call.add_flops(per_element * prod(source.shape) // source.shape[1], units)
    return call.result(Labels.along(units, 1, call.shape))


def _carry_vector(call: OpCall, name: str, units: Tensor) -> None:
    """A one-dimensional parameter or buffer beside a channel dimension."""
    value = call.args.get(name)
    if value is None:
        return
    stored = call.stored_param(name)
    if stored is not None and len(stored.shape) == 1:
        call.state.carry(stored.name, 0, units, call.location)
    else:
        call.channel_ids.union(
            call.ids_along(call.labels(name), 0), units, f"{name} of {call.location} is computed in forward"
        )
