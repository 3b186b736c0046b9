"""Move labels as operators move data: the very same operator runs on the channel ids.

Only operators that depend on positions or sizes written in `forward` need more, since these do not follow a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gdp.tracing.labels import ANY_ID, FROZEN_ID, Labels, either
from gdp.tracing.op_call import OpCall
from gdp.tracing.trace_state import ParamRef


def move_data(call: OpCall) -> Any:
    """Run the operator on channel ids (or on the coordinates of a parameter) instead of on values."""
    # a parameter alone is still a parameter afterwards, in another order
    operands = list(call.operands())
    if len(operands) == 1 and isinstance(operands[0], ParamRef):
        out = call.rerun(lambda leaf: leaf.coordinates() if isinstance(leaf, ParamRef) else leaf)
        name, exact = operands[0].name, operands[0].exact
        parts = [ParamRef(name, tuple(o.shape), o, exact) for o in (out if isinstance(out, list | tuple) else [out])]
        return parts if isinstance(out, list | tuple) else parts[0]

    # anything else is an activation
    def full(leaf: Any) -> Any:
        """Return the channel id of every element of an activation or parameter; other arguments as they are."""
        leaf = call.state.as_activation(leaf) if isinstance(leaf, ParamRef) else leaf
        return leaf.full() if isinstance(leaf, Labels) else leaf

    out = call.rerun(full)
    return [Labels.of(o) for o in out] if isinstance(out, list | tuple) else Labels.of(out)


def broadcast(call: OpCall) -> Any:
    """Copy labels along dimensions of size 1; copies of one channel along others go with whatever they meet.

    A number of copies that is written in `forward` follows no cut, which the dry run finds out.
    """
    if call.op == "broadcast_tensors":
        return [_copied(call, tensor, call.shape) for tensor in call["tensors"]]
    source = call["input"]
    sizes = zip(reversed(source.shape), reversed(call.shape), strict=False)
    if any(size not in (1, copied) for size, copied in sizes):  # repeat and tile put whole tensors side by side
        return move_data(call)
    return _copied(call, source, call.shape)


def _copied(call: OpCall, source: Labels | ParamRef, shape: tuple[int, ...]) -> Labels | ParamRef:
    """Return the labels of copies of a tensor along dimensions of size 1.

    Args:
        call: the operator.
        source: the tensor.
        shape: of the copies, which may have more dimensions in front.
    """
    if isinstance(source, ParamRef):
        return ParamRef(source.name, shape, source.coordinates().expand(shape), source.exact)
    before = (1,) * (len(shape) - len(source.shape)) + source.shape
    copied = {d for d in range(1, len(shape)) if before[d] != shape[d]}  # batches hold no channels
    if source.ids.numel() > 1 or not copied:
        return Labels.of(source.full().expand(shape))
    # of constants and inputs nobody knows where channels lie: in pictures along the second dimension
    if bool((source.ids == FROZEN_ID).all()) and not (copied == {1} and len(shape) > 3):
        return Labels.of(source.full().expand(shape))
    call.freeze(source.ids, f"one channel is broadcast over many in {call.location}")
    return Labels(torch.full([1] * len(shape), ANY_ID), shape)


def concat(call: OpCall) -> Any:
    """Put the ids of concat and stack one after the other; join those along all other dimensions.

    Sizes must agree there, so all tensors have to lose the same channels.
    """
    tensors = [v for v in call.args["tensors"] if isinstance(v, Labels | ParamRef)]
    if len(tensors) == 1:
        return move_data(call)
    parts = [call.state.as_activation(v) if isinstance(v, ParamRef) else v for v in tensors]
    ndim = len(call.shape) - (call.op == "stack")
    dim = call.args["dim"] % len(call.shape) if call.op != "stack" else None

    # channels along another dimension are joined, unless there are others along `dim` as well
    if any(part.varies(d) for part in parts for d in range(ndim) if d != dim):
        if dim is not None and any(part.varies(dim) for part in parts):
            return call.freeze_all(f"{call.location} joins channels along two dimensions")
        first = parts[0].ids
        whole = len(parts) == len(call.args["tensors"])  # else one of them has no labels, and its size is fixed
        for part in parts:
            reason = f"joined with channels that must stay in {call.location}"
            call.channel_ids.union(first if whole else torch.tensor(FROZEN_ID), part.ids, reason)
            first = either(first, part.ids)
        if whole:
            joined = [Labels(first, part.shape).full() for part in parts]
            return Labels.of(call.target(joined, call.args["dim"]))
    return move_data(call)


def pass_through(call: OpCall) -> Any:
    """Return the labels as they are: copies, casts and changes of layout."""
    return call["input"]


def fixed_positions(call: OpCall) -> Any:
    """Freeze the channels of which slices, selections and rolls take some at positions written in `forward`."""
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
    """Join channel i of every part, if the parts are of equal size; else freeze the channels.

    Equal parts then lose the same channels, and the same split of the smaller tensor gives the same parts.
    """
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
    """Move ids as views do; where a channel dimension is split in two, join the rows of the outer dimension.

    All rows then lose the same channels, so that the smaller tensor can be viewed the same way.
    """
    source = call["input"]
    if not isinstance(source, Labels):
        return move_data(call)

    # the ids as the view arranges them
    full = source.full().reshape(call.shape)
    ids = Labels.of(full).ids

    # join where channels run along several dimensions of the result that come from the same ones of the input
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
    """Yield pairs of the smallest runs of dimensions of two shapes that hold the same number of elements.

    Args:
        a: a shape.
        b: a shape of the same number of elements.
    """
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
    """Keep the ids where positions are padded; entries that are padded along channels are new and must stay."""
    source = call["input"]
    if not isinstance(source, Labels):
        return call.freeze_all(f"{call.location} pads a weight")

    # amounts come in pairs, from the last dimension on
    amounts = list(call.args["pad" if "pad" in call.args else "padding"])
    ids, ndim = source.ids, len(source.shape)
    for k in range(0, len(amounts), 2):
        dim, (low, high) = ndim - 1 - k // 2, amounts[k : k + 2]
        if not source.varies(dim) or low == high == 0:
            continue
        # other modes copy from the border, and negative amounts crop: both at fixed positions
        constant = call.op == "constant_pad_nd" or call.args.get("mode") == "constant"
        if min(low, high) < 0 or not constant:
            call.freeze(ids, f"{call.location} takes channels at fixed positions")
        flat = [0] * (2 * ndim)
        flat[2 * (ndim - 1 - dim)], flat[2 * (ndim - 1 - dim) + 1] = low, high
        ids = torch.constant_pad_nd(ids, flat, FROZEN_ID)
    return Labels(ids, call.shape)


def pixel_shuffle(call: OpCall) -> Any:
    """Join every r*r channels that become one."""
    r2 = call["upscale_factor"] ** 2
    return _regroup(call, lambda v: (v.view(-1, r2), v.view(-1, r2)[:, 0]))


def pixel_unshuffle(call: OpCall) -> Any:
    """Repeat the id of every channel, which becomes r*r channels."""
    r2 = call["downscale_factor"] ** 2
    return _regroup(call, lambda v: (v.view(-1, 1), v.repeat_interleave(r2)))


def channel_shuffle(call: OpCall) -> Any:
    """Join channel j of every group, so that the smaller groups are shuffled alike."""
    groups = call["groups"]
    return _regroup(call, lambda v: (v.view(groups, -1).T, v.view(groups, -1)[0].repeat_interleave(groups)))


def glu(call: OpCall) -> Any:
    """Join the two halves, of which the second gates the first."""
    source = call.labels()
    dim = call["dim"] % len(source.shape)
    if not source.varies(dim):
        return Labels(source.ids, call.shape)
    first, second = source.ids.chunk(2, dim)
    call.channel_ids.union(first, second, f"gated by channels that must stay in {call.location}")
    return Labels(first, call.shape)


def unfold_patches(call: OpCall) -> Any:
    """Repeat the id of every channel, which becomes as many rows as the window has places (im2col)."""
    source = call.labels()
    dim = len(source.shape) - 3
    ids = call.ids_along(source, dim)
    return Labels.along(ids.repeat_interleave(call.shape[dim] // len(ids)), dim, call.shape)


def _regroup(call: OpCall, rule: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Any:
    """Join and rearrange the ids of the channel dimension.

    Args:
        call: the operator.
        rule: makes of the ids, shape (channels,), those to join row by row, shape (rows, joined), and the ids of the
            result, shape (channels of the result,).
    """
    source = call.labels()
    dim = 1 if call.op == "channel_shuffle" else len(source.shape) - 3
    rows, out = rule(call.ids_along(source, dim))
    call.channel_ids.union(rows[:, :1], rows, f"shuffled together with channels that must stay in {call.location}")
    return Labels.along(out, dim, call.shape)
