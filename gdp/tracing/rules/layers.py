"""Read and make channels in layers with weights: convs, linears and norms. One rule per kind of operator."""

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
    """Read channels, and make new ones, in convs of any dimension: plain, depthwise, grouped and transposed.

    A depthwise conv keeps its channels. A grouped one loses whole groups, or the same channels of every group. A weight
    that is computed in `forward` can lose filters only.

    FLOPs as fvcore counts them: batch x positions x elements of the weight, one multiply-add being one FLOP; positions
    are those of the output, or of the input of a transposed conv.
    """
    # FLOPs per pair of a row and a column of the weight
    weight, source = call.stored_param("weight"), call.labels()
    transposed = "transpose" in call.op
    kernel = tuple(call["weight"].shape)
    channel_dim = len(source.shape) - len(kernel) + 1
    positions = (source.shape if transposed else call.shape)[channel_dim + 1 :]
    coef = prod(call.shape[:channel_dim]) * prod(positions) * prod(kernel[2:])
    if isinstance(call["padding"], str):  # fvcore does not count these
        coef = 0

    # channels that enter, and channels per group
    ids_in, groups = call.ids_along(source, channel_dim), call["groups"]
    per_in, per_out = len(ids_in) // groups, call.shape[channel_dim] // groups
    constant = torch.zeros(kernel[1], dtype=torch.long)

    # a weight that is computed in forward
    if weight is None and transposed:
        call.add_flops(coef * prod(kernel[:2]))
        return _computed(call, call.shape[channel_dim])
    if weight is None:
        ids_out = _computed_rows(call, ids_in, groups)
        call.add_flops(coef, ids_out, constant)
    elif groups > 1 and _by_whole_groups(call.state, weight, groups, per_in, per_out):
        # whole groups go: all that one group reads and makes is one channel
        rows = ids_in.view(groups, per_in)
        call.channel_ids.union(rows[:, :1], rows, f"grouped with channels that must stay in {call.location}")
        ids_out = rows[:, 0].repeat_interleave(per_out)
        carried = rows[:, 0].repeat_interleave(per_in) if transposed else ids_out
        call.state.carry(weight.name, 0, carried, call.location)
        call.add_flops(coef, carried, constant)
    else:
        # every group loses the same channels as the others; a plain conv has one group
        rows = ids_in.view(groups, per_in)
        call.channel_ids.union(rows[:1], rows, f"grouped with channels that must stay in {call.location}")
        new_ids = call.channel_ids.new(per_out)
        ids_out = new_ids.repeat(groups)
        axes = (ids_in, new_ids) if transposed else (ids_out, rows[0])
        call.state.carry(weight.name, 0, axes[0], call.location)
        call.state.carry(weight.name, 1, axes[1], call.location)
        call.state.read(weight.name, 0 if transposed else 1)
        call.state.produce(weight.name, 1 if transposed else 0)
        call.add_flops(coef, *axes)
    _carry_vector(call, "bias", ids_out)
    return Labels.along(ids_out, channel_dim, call.shape)


def _by_whole_groups(state: TraceState, weight: ParamRef, groups: int, per_in: int, per_out: int) -> bool:
    """Return whether a grouped conv loses whole groups, as a depthwise one does; else every group loses the same.

    Whichever leaves more channels to choose from is taken, unless `state.flipped_grouping` says the other way round.
    Whole groups can go only where a conv module has an attribute `groups` that follows the cut.

    Args:
        state: of the pass; the weight is noted in it if both ways are open to it.
        weight: of the conv.
        groups: number of groups.
        per_in: channels that one group reads.
        per_out: channels that one group makes.
    """
    if per_in == 1:
        return True
    if weight.name not in state.settable_groups:
        return False
    state.two_way_grouping.add(weight.name)
    return (groups >= max(per_in, per_out)) != (weight.name in state.flipped_grouping)


def linear(call: OpCall) -> Any:
    """Read channels along the last dimension, and make new ones: `y = x W^T + b`. FLOPs: rows x in x out."""
    weight, source = call.stored_param("weight"), call.labels()
    ids_in, rows = call.ids_along(source, len(source.shape) - 1), prod(source.shape[:-1])
    if weight is None:
        ids_out = _computed_rows(call, ids_in, 1)
        call.add_flops(rows, ids_out, torch.zeros(len(ids_in), dtype=torch.long))
    else:
        ids_out = call.channel_ids.new(weight.shape[0])
        call.state.carry(weight.name, 1, ids_in, call.location)
        call.state.carry(weight.name, 0, ids_out, call.location)
        call.state.read(weight.name, 1)
        call.state.produce(weight.name, 0)
        call.add_flops(rows, ids_out, ids_in)
    _carry_vector(call, "bias", ids_out)
    return Labels.along(ids_out, len(call.shape) - 1, call.shape)


def _computed_rows(call: OpCall, ids_in: Tensor, groups: int) -> Tensor:
    """Return the ids of the filters of a weight that is computed in `forward` (standardised, normalised).

    Filters can go. A filter depends on all of its entries, so the channels that it reads can neither be gated nor cut,
    and are frozen.

    Args:
        call: a conv or linear.
        ids_in: channel ids that it reads, shape (channels,).
        groups: of the conv; 1 for a linear.

    Returns:
        Channel ids, shape (filters,).
    """
    # a depthwise conv reads what it makes: one channel each
    rows = call.ids_along(call.labels("weight"), 0)
    if groups == len(ids_in) > 1:
        ids_in = ids_in.repeat_interleave(len(rows) // groups)
        call.channel_ids.union(rows, ids_in, f"the weight of {call.location} is computed in forward")
        return ids_in

    # the channels that are read stay, and every group loses the same filters
    call.freeze(ids_in, f"the weight of {call.location}, which reads it, is computed in forward from all its entries")
    by_group = rows.view(groups, -1)
    call.channel_ids.union(by_group[:1], by_group, f"the weight of {call.location} is computed in forward")
    rows = by_group[0].repeat(groups)
    if bool((rows == FROZEN_ID).all()):
        call.freeze_layer(
            len(rows), f"the weight of {call.location} is computed in forward in a way that ties its filters"
        )

    # the first tensor that carries the filters gives the group its name
    made = (key for key, vector in call.state.axes.items() if len(vector) and vector[0] == rows[0] != FROZEN_ID)
    for key in list(made)[:1]:
        call.state.produce(*key)
    return rows


def _computed(call: OpCall, channels: int) -> Any:
    """Freeze everything around a layer whose weight is computed in `forward`.

    Args:
        call: the layer.
        channels: how many it makes.
    """
    call.freeze_layer(channels, f"the weight of {call.location} is computed in forward")
    return call.freeze_all(f"the weight of {call.location} is computed in forward")


def weight_norm(call: OpCall) -> Any:
    """Join filter i of `v` with entry i of `g`: `v * g / |v|` treats every filter by itself."""
    if call["dim"] != 0:
        return call.freeze_all(f"{call.location} ties all filters")
    v, g = (call.ids_along(call.labels(name), 0) for name in ("v", "g"))
    call.channel_ids.union(v, g, f"meets a constant in {call.location}")
    return call.result(Labels.along(v, 0, call["v"].shape))


def channel_norm(call: OpCall) -> Any:
    """Pass channels through batch and instance norm, and carry them in its parameters and statistics.

    FLOPs as fvcore counts them, per element: 4, or 5 with a weight; with running statistics 1, or 2.
    """
    source = call.labels()
    ids = call.ids_along(source, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        _carry_vector(call, name, ids)
    running = call.op == "batch_norm" and not call["training"]
    per_element = ((4, 5), (1, 2))[running][call["weight"] is not None]
    call.add_flops(per_element * prod(source.shape) // source.shape[1], ids)
    return Labels.along(ids, 1, call.shape)


def prelu(call: OpCall) -> Any:
    """Pass channels through PReLU, and carry them in its weight, if there is a slope per channel."""
    weight = call["weight"]
    if isinstance(weight, ParamRef) and prod(weight.shape) > 1:
        ids = call.ids_along(call.labels(), 1)
        _carry_vector(call, "weight", ids)
        return Labels.along(ids, 1, call.shape)
    return reshaping.pass_through(call)


def layer_norm(call: OpCall) -> Any:
    """Pass channels along a dimension that is not normalized; freeze those that statistics are taken over.

    FLOPs as fvcore counts them, per element: 4, or 5 with a weight.
    """
    source = call.labels()
    per_element = 5 if call["weight"] is not None else 4

    # channels along one dimension outside of the statistics pass
    normed = range(len(source.shape) - len(call["normalized_shape"]), len(source.shape))
    beside = [d for d in range(len(source.shape)) if source.varies(d)]
    if len(beside) == 1 and beside[0] not in normed:
        dim = beside[0]
        call.add_flops(per_element * prod(source.shape) // source.shape[dim], call.ids_along(source, dim))
        return call.result(source)

    # all others stay
    call.add_flops(per_element * prod(source.shape))
    return call.freeze_all(f"{call.location} mixes channels") if beside else call.result(source)


def group_norm(call: OpCall) -> Any:
    """Join the channels of a group, over which statistics are taken; freeze them where there is one group only.

    Whole groups can go, since the module holds their number; without a weight there may be no module, and they stay.
    FLOPs as fvcore counts them, per element: 4, or 5 with a weight.
    """
    source, groups = call.labels(), call["num_groups"]
    per_element = 5 if call["weight"] is not None else 4
    if groups == 1 or call.stored_param("weight") is None:
        call.add_flops(per_element * prod(source.shape))
        return call.freeze_all(f"{call.location} mixes channels")
    rows = call.ids_along(source, 1).view(groups, -1)
    call.channel_ids.union(rows[:, :1], rows, f"normalized with channels that must stay in {call.location}")
    ids = rows[:, 0].repeat_interleave(rows.shape[1])
    for name in ("weight", "bias"):
        _carry_vector(call, name, ids)
    call.add_flops(per_element * prod(source.shape) // source.shape[1], ids)
    return call.result(Labels.along(ids, 1, call.shape))


def _carry_vector(call: OpCall, name: str, ids: Tensor) -> None:
    """Note that a one-dimensional argument (a bias, a statistic) holds one entry per channel.

    Args:
        call: the operator.
        name: of the argument; nothing happens if it is not given.
        ids: channel id of every entry, shape (channels,).
    """
    value = call.args.get(name)
    if value is None:
        return
    stored = call.stored_param(name)
    if stored is not None and len(stored.shape) == 1:
        call.state.carry(stored.name, 0, ids, call.location)
    else:
        call.channel_ids.union(
            call.ids_along(call.labels(name), 0), ids, f"{name} of {call.location} is computed in forward"
        )
