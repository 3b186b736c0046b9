"""Rules of operators that mix positions: pooling, resizing, reductions. Channels stay apart, or they are frozen."""

from __future__ import annotations

from math import prod
from typing import Any

from gdp.tracing.labels import Labels
from gdp.tracing.op_call import OpCall
from gdp.tracing.rules.elementwise import elementwise


def pool(call: OpCall) -> Any:
    """Pooling and resizing: positions mix, channels do not."""
    source = call.labels()
    spatial = next(int(c) for c in call.op if c in "123")
    tail = range(len(source.shape) - spatial, len(source.shape))
    if any(source.varies(d) for d in tail):
        return call.freeze_all(f"{call.location} mixes channels")
    scale = {"adaptive_avg_pool2d": source.shape, "upsample_nearest2d": call.shape}.get(call.op)
    scale, factor = (call.shape, 4) if call.op == "upsample_bilinear2d" else (scale, 1)
    if scale is not None:
        dim = len(source.shape) - spatial - 1
        call.add_flops(factor * prod(scale) // scale[dim], call.ids_along(source, dim))
    return call.result(Labels(source.ids, call.shape))


def reduce(call: OpCall) -> Any:
    """Sums, means and the like: exact as long as no channels are summed up."""
    if "other" in call.args:  # max(x, y)
        return elementwise(call)
    source = call.labels()
    ndim = len(source.shape)
    dim = call.args.get("dim")
    dims = [d % ndim for d in ([dim] if isinstance(dim, int) else dim or range(ndim))]
    if any(source.varies(d) for d in dims):
        return call.freeze_all(f"{call.location} mixes channels")
    keepdim = len(call.shape) == ndim
    ids = source.ids if keepdim else source.ids.reshape([s for d, s in enumerate(source.ids.shape) if d not in dims])
    labels = Labels(ids, call.shape)
    return labels if isinstance(call.outputs, tuple) else [labels for _ in call.outputs]


def normalize_dim(call: OpCall) -> Any:
    """Softmax and running sums along positions leave channels apart."""
    source = call.labels()
    return call.freeze_all(f"{call.location} mixes channels") if source.varies(call["dim"]) else source


def grid_sample(call: OpCall) -> Any:
    """Resampling at positions that may be computed: channels stay apart."""
    source, grid = call.labels(), call.labels("grid")
    if any(source.varies(d) for d in range(2, len(source.shape))):
        return call.freeze_all(f"{call.location} mixes channels")
    call.freeze(grid.ids, f"{call.location} takes positions from it")
    units = call.ids_along(source, 1)
    call.add_flops(4 * prod(call.shape) // call.shape[1], units)
    return Labels.along(units, 1, call.shape)
