"""Pass channels through operators that mix positions (pooling, resizing, reductions); freeze those that are mixed."""

from __future__ import annotations

from math import prod
from typing import Any

from gdp.tracing.labels import Labels, either
from gdp.tracing.op_call import OpCall
from gdp.tracing.rules.elementwise import elementwise

UNCOUNTED = "fvcore can't trace {} and does not know it: it is counted as 0 FLOPs"


def pool(call: OpCall) -> Any:
    """Pass channels through pooling and resizing; freeze them where they lie along positions that are mixed.

    FLOPs as fvcore counts them: one per input element of adaptive average pooling and per output element of nearest
    upsampling in 2d, four per output element of bilinear upsampling, none for the others.
    """
    source = call.labels()

    # freeze channels that lie along spatial dimensions
    spatial = next(int(c) for c in call.op if c in "123")
    tail = range(len(source.shape) - spatial, len(source.shape))
    if any(source.varies(d) for d in tail):
        return call.freeze_all(f"{call.location} mixes channels")

    # the elements that fvcore counts, and the FLOPs of each
    scale = {"adaptive_avg_pool2d": source.shape, "upsample_nearest2d": call.shape}.get(call.op)
    scale, factor = (call.shape, 4) if call.op == "upsample_bilinear2d" else (scale, 1)
    if scale is not None:
        dim = len(source.shape) - spatial - 1
        call.add_flops(factor * prod(scale) // scale[dim], call.ids_along(source, dim))
    labels = Labels(source.ids, call.shape)  # indices are places within a channel, and go along with it
    return labels if isinstance(call.outputs, tuple) else [labels for _ in call.outputs]


def unpool(call: OpCall) -> Any:
    """Join pooled channels with the indices of those that were pooled before. FLOPs: none, as fvcore counts."""
    pooled, indices = call.labels(), call.labels("indices")
    spatial = range(len(pooled.shape) - int(next(c for c in call.op if c in "23")), len(pooled.shape))
    if any(labels.varies(d) for labels in (pooled, indices) for d in spatial):
        return call.freeze_all(f"{call.location} mixes channels")
    call.channel_ids.union(pooled.ids, indices.ids, f"{call.location} takes places from indices that must stay")
    call.state.notes[UNCOUNTED.format(call.op)] = None
    return Labels(either(pooled.ids, indices.ids), call.shape)


def reduce(call: OpCall) -> Any:
    """Pass channels through sums, means and the like, and freeze them where they are summed up themselves.

    `max` and `min` of two tensors are elementwise.
    """
    if "other" in call.args:  # max(x, y)
        return elementwise(call)
    source = call.labels()
    ndim = len(source.shape)

    # freeze channels that are summed up
    dim = call.args.get("dim")
    dims = [d % ndim for d in ([dim] if isinstance(dim, int) else dim or range(ndim))]
    if any(source.varies(d) for d in dims):
        return call.freeze_all(f"{call.location} mixes channels")
    keepdim = len(call.shape) == ndim
    ids = source.ids if keepdim else source.ids.reshape([s for d, s in enumerate(source.ids.shape) if d not in dims])
    labels = Labels(ids, call.shape)
    return labels if isinstance(call.outputs, tuple) else [labels for _ in call.outputs]


def normalize_dim(call: OpCall) -> Any:
    """Pass channels through softmax and running sums along positions; freeze them where these run along channels."""
    source = call.labels()
    return call.freeze_all(f"{call.location} mixes channels") if source.varies(call["dim"]) else source


def grid_sample(call: OpCall) -> Any:
    """Pass channels through resampling, and freeze those of the grid of positions. FLOPs: four per output element."""
    source, grid = call.labels(), call.labels("grid")
    if any(source.varies(d) for d in range(2, len(source.shape))):
        return call.freeze_all(f"{call.location} mixes channels")
    call.freeze(grid.ids, f"{call.location} takes positions from it")
    ids = call.ids_along(source, 1)
    call.add_flops(4 * prod(call.shape) // call.shape[1], ids)
    return Labels.along(ids, 1, call.shape)
