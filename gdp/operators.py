"""The table from ATen operator to what it does with channel units. What is not in the table freezes what it meets."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from gdp import movement
from gdp.labels import Labels
from gdp.pointwise import pointwise
from gdp.walk import Call, Weight

Rule = Callable[[Call], Any]


def conv(call: Call) -> Any:
    """Convolutions of any dimension, plain, depthwise, grouped and transposed.

    FLOPs as fvcore counts them: batch x positions x elements of the weight, one multiply-add being one FLOP.
    """
    weight, source = call.stored("weight"), call.labels()
    transposed = "transpose" in call.op
    if weight is None:
        kernel, shape = call["weight"].shape, source.shape if transposed else call.shape
        at = len(shape) - len(kernel) + 1  # the channel dimension
        call.walk.count(prod(shape[:at]) * prod(shape[at + 1 :]) * prod(kernel))
        return call.unknown(f"the weight of {call.where} is computed in forward")
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    spatial = len(weight.shape) - 2
    channel_dim = len(source.shape) - spatial - 1
    groups = call["groups"]
    units_in = call.vector(source, channel_dim)
    per_group = len(units_in) // groups
    if groups > 1 and per_group == 1:  # depthwise: filters belong to the channel they read
        units_out = units_in.repeat_interleave(call.shape[channel_dim] // groups)
        carried = {0: units_in if transposed else units_out}
    else:
        if groups > 1:  # every group keeps its size in step with the others
            rows = units_in.view(groups, per_group)
            call.units.tie(rows[:1], rows, f"grouped with an input, zero padding or a constant in {call.where}")
            units_in = rows[0].repeat(groups)
        fresh = call.units.fresh(call.shape[channel_dim] // groups)
        units_out = fresh.repeat(groups)
        carried = {out_axis: units_out if out_axis == 0 else fresh, in_axis: units_in[: weight.shape[in_axis]]}
        call.walk.readers.add((weight.name, in_axis))
        call.walk.producers.add((weight.name, out_axis))
    for dim, vector in carried.items():
        call.walk.carry(weight.name, dim, vector, call.where)
    _carry_vector(call, "bias", units_out)
    positions = (source.shape if transposed else call.shape)[channel_dim + 1 :]
    coef = prod(call.shape[:channel_dim]) * prod(positions) * prod(weight.shape[2:])
    fixed = torch.zeros(weight.shape[1], dtype=torch.long)
    call.walk.count(coef, carried[0], carried.get(1, fixed))
    return Labels.along(units_out, channel_dim, call.shape)


def linear(call: Call) -> Any:
    """`y = x W^T + b`: reads units along the last dimension, makes new ones. FLOPs: rows x in x out."""
    weight, source = call.stored("weight"), call.labels()
    if weight is None:
        call.walk.count(prod(source.shape) * call["weight"].shape[0])
        return call.unknown(f"the weight of {call.where} is computed in forward")
    units_in = call.vector(source, len(source.shape) - 1)
    units_out = call.units.fresh(weight.shape[0])
    call.walk.carry(weight.name, 1, units_in, call.where)
    call.walk.carry(weight.name, 0, units_out, call.where)
    call.walk.readers.add((weight.name, 1))
    call.walk.producers.add((weight.name, 0))
    _carry_vector(call, "bias", units_out)
    call.walk.count(prod(source.shape[:-1]), units_out, units_in)
    return Labels.along(units_out, len(call.shape) - 1, call.shape)


def channel_norm(call: Call) -> Any:
    """Batch and instance norm: every channel by itself. FLOPs as fvcore counts them, fewer with running statistics."""
    source = call.labels()
    units = call.vector(source, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        _carry_vector(call, name, units)
    running = call.op == "batch_norm" and not call["training"]
    per_element = ((4, 5), (1, 2))[running][call["weight"] is not None]
    call.walk.count(per_element * prod(source.shape) // source.shape[1], units)
    return Labels.along(units, 1, call.shape)


def prelu(call: Call) -> Any:
    weight = call["weight"]
    if isinstance(weight, Weight) and prod(weight.shape) > 1:
        units = call.vector(call.labels(), 1)
        _carry_vector(call, "weight", units)
        return Labels.along(units, 1, call.shape)
    return movement.keep(call)


def mixing_norm(call: Call) -> Any:
    """Layer and group norm: statistics over several channels."""
    source = call.labels()
    call.walk.count((5 if call["weight"] is not None else 4) * prod(source.shape))
    return call.unknown(f"{call.where} mixes channels")


def pool(call: Call) -> Any:
    """Pooling and resizing: positions mix, channels do not."""
    source = call.labels()
    spatial = next(int(c) for c in call.op if c in "123")
    tail = range(len(source.shape) - spatial, len(source.shape))
    if any(source.varies(d) for d in tail):
        return call.unknown(f"{call.where} mixes channels")
    scale = {"adaptive_avg_pool2d": source.shape, "upsample_nearest2d": call.shape}.get(call.op)
    scale, factor = (call.shape, 4) if call.op == "upsample_bilinear2d" else (scale, 1)
    if scale is not None:
        dim = len(source.shape) - spatial - 1
        call.walk.count(factor * prod(scale) // scale[dim], call.vector(source, dim))
    return call.result(Labels(source.ids, call.shape))


def reduce(call: Call) -> Any:
    """Sums, means and the like: exact as long as no channels are summed up."""
    if "other" in call.args:  # max(x, y)
        return pointwise(call)
    source = call.labels()
    ndim = len(source.shape)
    dim = call.args.get("dim")
    dims = [d % ndim for d in ([dim] if isinstance(dim, int) else dim or range(ndim))]
    if any(source.varies(d) for d in dims):
        return call.unknown(f"{call.where} mixes channels")
    keepdim = len(call.shape) == ndim
    ids = source.ids if keepdim else source.ids.reshape([s for d, s in enumerate(source.ids.shape) if d not in dims])
    labels = Labels(ids, call.shape)
    return labels if isinstance(call.outputs, tuple) else [labels for _ in call.outputs]


def normalize_dim(call: Call) -> Any:
    """Softmax and running sums along positions leave channels apart."""
    source = call.labels()
    return call.unknown(f"{call.where} mixes channels") if source.varies(call["dim"]) else source


def matmul(call: Call) -> Any:
    """Products of activations (attention) are left alone; their FLOPs do not change."""
    shapes = [o.shape for o in call.operands()][-2:]
    call.walk.count(prod(shapes[0]) * shapes[1][-1])
    return call.unknown(f"{call.where} mixes channels")


def constant(call: Call) -> Any:
    """Tensors made in `forward` have the size that is written there."""
    return call.result(Labels.stay(call.shape))


def _carry_vector(call: Call, name: str, units: Tensor) -> None:
    """A one-dimensional parameter or buffer beside a channel dimension."""
    value = call.args.get(name)
    if value is None:
        return
    stored = call.stored(name)
    if stored is not None and len(stored.shape) == 1:
        call.walk.carry(stored.name, 0, units, call.where)
    else:
        call.freeze(units, f"{name} of {call.where} is computed in forward")
        if isinstance(value, Weight):
            call.walk.fix(value, f"{name} of {call.where} is computed in forward")


def _table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows for name in names.split()}


RULES: dict[str, Rule] = _table(
    (conv, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
    (linear, "linear"),
    (channel_norm, "batch_norm instance_norm"),
    (mixing_norm, "layer_norm group_norm"),
    (prelu, "prelu"),
    (pool, "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"),
    (pool, "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
    (pool, "max_pool2d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d"),
    (pool, "upsample_bicubic2d upsample_linear1d upsample_trilinear3d"),
    (reduce, "mean sum amax amin max min var std logsumexp prod norm linalg_vector_norm argmax any all"),
    (normalize_dim, "softmax log_softmax cumsum"),
    (matmul, "matmul bmm mm addmm"),
    (pointwise, "dropout feature_dropout alpha_dropout hardtanh hardswish relu6 zeros_like ones_like empty_like"),
    (pointwise, "rand_like randn_like full_like where masked_fill lerp addcmul addcdiv copy threshold rrelu bernoulli"),
    (movement.keep, "contiguous clone to _to_copy detach alias type_as float half double"),
    (movement.move, "permute transpose t movedim swapaxes squeeze unsqueeze expand repeat repeat_interleave"),
    (movement.join, "cat concat stack"),
    (movement.move, "flip numpy_T mT expand_as"),
    (movement.reshape, "view reshape _unsafe_view flatten unflatten view_as reshape_as"),
    (movement.split, "chunk split split_with_sizes tensor_split"),
    (movement.positional, "slice select narrow roll unbind"),
    (movement.pad, "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
    (movement.pixel_shuffle, "pixel_shuffle"),
    (movement.pixel_unshuffle, "pixel_unshuffle"),
    (movement.channel_shuffle, "channel_shuffle native_channel_shuffle"),
    (constant, "zeros ones full empty rand randn arange new_zeros new_ones new_full new_empty scalar_tensor"),
)


def rule_for(op: str, target: Any) -> Rule | None:
    """The rule of an operator, or None where nothing is known about it."""
    if op in RULES:
        return RULES[op]
    return pointwise if torch.Tag.pointwise in target.tags else None
