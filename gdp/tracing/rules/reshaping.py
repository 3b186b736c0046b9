"""Data movement: the very same operator runs on labels; only what depends on fixed positions or sizes needs care."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gdp.tracing.labels import FROZEN_ID, Labels
from gdp.tracing.op_call import OpCall
from gdp.tracing.trace_state import ParamRef


def move_data(call: OpCall) -> Any:
    """Run the operator on label tensors (or on the coordinates of a parameter) instead of on values.

    Args:
        call: any operator that moves elements and computes nothing.
    """
    operands = list(call.operands())
    if len(operands) == 1 and isinstance(operands[0], ParamRef):
        out = call.rerun(lambda leaf: leaf.coordinates() if isinstance(leaf, ParamRef) else leaf)
        name, exact = operands[0].name, operands[0].exact
        parts = [ParamRef(name, tuple(o.shape), o, exact) for o in (out if isinstance(out, list | tuple) else [out])]
        return parts if isinstance(out, list | tuple) else parts[0]

    def full(leaf: Any) -> Any:
        leaf = call.state.as_activation(leaf) if isinstance(leaf, ParamRef) else leaf
        return leaf.full() if isinstance(leaf, Labels) else leaf

    out = call.rerun(full)
    return [Labels.of(o) for o in out] if isinstance(out, list | tuple) else Labels.of(out)


def concat(call: OpCall) -> Any:
    """Concat and stack: sizes must agree along every other dimension, so channels there go together."""
    tensors = [v for v in call.args["tensors"] if isinstance(v, Labels | ParamRef)]
    if len(tensors) == 1:
        return move_data(call)
    parts = [call.state.as_activation(v) if isinstance(v, ParamRef) else v for v in tensors]
    ndim = len(call.shape) - (call.op == "stack")
    dim = call.args["dim"] % len(call.shape) if call.op != "stack" else None
    if any(part.varies(d) for part in parts for d in range(ndim) if d != dim):
        if dim is not None and any(part.varies(dim) for part in parts):
            return call.freeze_all(f"{call.location} joins channels along two dimensions")
        whole = len(parts) == len(call.args["tensors"])
        for part in parts:
            reason = f"joined with channels that must stay in {call.location}"
            call.channel_ids.union(parts[0].ids if whole else torch.tensor(FROZEN_ID), part.ids, reason)
        if whole:
            first = parts[0].ids
            joined = [Labels(first, part.shape).full() for part in parts]
            return Labels.of(call.target(joined, call.args["dim"]))
    return move_data(call)


def pass_through(call: OpCall) -> Any:
    """Copies, casts and changes of layout: labels pass as they are."""
    return call["input"]


def fixed_positions(call: OpCall) -> Any:
    """Slices, selections and rolls at positions written in `forward`: along channels these can't follow a cut."""
    source = call["input"]
    out = move_data(call)
    if isinstance(source, Labels):
        dims = next((call.args[k] for k in ("dim", "dims", "dimension") if k in call.args), None)
        dims = [dims] if isinstance(dims, int) else (dims or range(len(source.shape)))
        whole = call.op == "slice" and call.shape == source.shape
        if not whole and any(source.varies(d) for d in dims):
            call.freeze(source.ids, f"{call.location} takes channels at fixed positions")
    return out


def split(call: OpCall) -> Any:
    """Equal parts lose the same channels, so that the same split of the smaller tensor gives the same parts."""
    source = call["input"]
    if not isinstance(source, Labels):
        return move_data(call)
    dim = call.args["dim"] % len(source.shape)
    sizes = {shape[dim] for shape in call.outputs}
    if source.varies(dim) and len(sizes) > 1:
        call.freeze(source.ids, f"{call.location} splits channels into uneven parts")
        return move_data(call)
    if source.varies(dim):
        parts = source.ids.unflatten(dim, (len(call.outputs), -1))
        first = parts.select(dim, 0)
        call.channel_ids.union(
            first.unsqueeze(dim), parts, f"split together with channels that must stay in {call.location}"
        )
        return [Labels(first, shape) for shape in call.outputs]
    return [Labels(source.ids, shape) for shape in call.outputs]


def reshape(call: OpCall) -> Any:
    """Views: where a channel dimension is split, every row of the outer factor loses the same channels."""
    source = call["input"]
    if not isinstance(source, Labels):
        return move_data(call)
    full = source.full().reshape(call.shape)
    ids = Labels.of(full).ids
    for dims_in, dims_out in _matching_dims(source.shape, call.shape):
        before = [d for d in dims_in if source.varies(d)]
        after = [d for d in dims_out if ids.shape[d] > 1]
        if [source.shape[d] for d in dims_in] == [call.shape[d] for d in dims_out] or len(after) < 2:
            continue
        if len(before) > 1:
            call.freeze(ids, f"{call.location} regroups channels")
        for dim in after[:-1]:
            first = ids.narrow(dim, 0, 1)
            call.channel_ids.union(first, ids, f"viewed together with channels that must stay in {call.location}")
            ids = first
    return Labels(ids, call.shape)


def _matching_dims(a: tuple[int, ...], b: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Pair the smallest runs of dimensions of `a` and `b` that hold the same number of elements."""
    i = j = 0
    while i < len(a) and j < len(b):
        run_a, run_b, size_a, size_b = [i], [j], a[i], b[j]
        i, j = i + 1, j + 1
        while size_a != size_b:
            if size_a < size_b:
                run_a, size_a, i = [*run_a, i], size_a * a[i], i + 1
            else:
                run_b, size_b, j = [*run_b, j], size_b * b[j], j + 1
        yield run_a, run_b


def pad(call: OpCall) -> Any:
    """Padding along positions keeps the labels; what is padded along channels is new and must stay."""
    source = call["input"]
    if not isinstance(source, Labels):
        return call.freeze_all(f"{call.location} pads a weight")
    amounts = list(call.args["pad" if "pad" in call.args else "padding"])
    ids, ndim = source.ids, len(source.shape)
    for k in range(0, len(amounts), 2):
        dim, (low, high) = ndim - 1 - k // 2, amounts[k : k + 2]
        if not source.varies(dim) or low == high == 0:
            continue
        constant = call.op == "constant_pad_nd" or call.args.get("mode") == "constant"
        if min(low, high) < 0 or not constant:
            call.freeze(ids, f"{call.location} takes channels at fixed positions")
        flat = [0] * (2 * ndim)
        flat[2 * (ndim - 1 - dim)], flat[2 * (ndim - 1 - dim) + 1] = low, high
        ids = torch.constant_pad_nd(ids, flat, FROZEN_ID)
    return Labels(ids, call.shape)


def pixel_shuffle(call: OpCall) -> Any:
    """Every r*r channels become one: they go together."""
    r2 = call["upscale_factor"] ** 2
    return _regroup(call, lambda v: (v.view(-1, r2), v.view(-1, r2)[:, 0]))


def pixel_unshuffle(call: OpCall) -> Any:
    """Every channel becomes r*r."""
    r2 = call["downscale_factor"] ** 2
    return _regroup(call, lambda v: (v.view(-1, 1), v.repeat_interleave(r2)))


def channel_shuffle(call: OpCall) -> Any:
    """Position j of every group goes together."""
    groups = call["groups"]
    return _regroup(call, lambda v: (v.view(groups, -1).T, v.view(groups, -1)[0].repeat_interleave(groups)))


def glu(call: OpCall) -> Any:
    """The second half gates the first: both lose the same channels."""
    source = call.labels()
    dim = call["dim"] % len(source.shape)
    if not source.varies(dim):
        return Labels(source.ids, call.shape)
    first, second = source.ids.chunk(2, dim)
    call.channel_ids.union(first, second, f"gated by channels that must stay in {call.location}")
    return Labels(first, call.shape)


def unfold_patches(call: OpCall) -> Any:
    """im2col: every channel becomes as many rows as the window has places."""
    source = call.labels()
    dim = len(source.shape) - 3
    units = call.ids_along(source, dim)
    return Labels.along(units.repeat_interleave(call.shape[dim] // len(units)), dim, call.shape)


def _regroup(call: OpCall, rule: Any) -> Any:
    source = call.labels()
    dim = 1 if call.op == "channel_shuffle" else len(source.shape) - 3
    tied, out = rule(call.ids_along(source, dim))
    call.channel_ids.union(tied[:, :1], tied, f"shuffled together with channels that must stay in {call.location}")
    return Labels.along(out, dim, call.shape)
