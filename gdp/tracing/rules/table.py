"""The table from ATen operator to what it does with channel units. What is not in the table freezes what it meets."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from gdp.tracing.labels import Labels
from gdp.tracing.op_call import OpCall
from gdp.tracing.rules import layers, reshaping
from gdp.tracing.rules.elementwise import elementwise

Rule = Callable[[OpCall], Any]


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


def matmul(call: OpCall) -> Any:
    """Products of activations (attention) are left alone; their FLOPs do not change."""
    shapes = [o.shape for o in call.operands()][-2:]
    call.add_flops(prod(shapes[0]) * shapes[1][-1])
    return call.freeze_all(f"{call.location} mixes channels")


def attention(call: OpCall) -> Any:
    """Attention weighs positions by all channels of a head; heads are left alone."""
    return call.freeze_all(f"{call.location} is attention, whose heads are left alone")


def lookup(call: OpCall) -> Any:
    """Rows of a table (nn.Embedding) are looked up by number."""
    reason = f"{call.location} looks up rows of a table, which is left alone"
    call.freeze_layer(call.shape[-1], reason)
    return call.freeze_all(reason)


def grid_sample(call: OpCall) -> Any:
    """Resampling at positions that may be computed: channels stay apart."""
    source, grid = call.labels(), call.labels("grid")
    if any(source.varies(d) for d in range(2, len(source.shape))):
        return call.freeze_all(f"{call.location} mixes channels")
    call.freeze(grid.ids, f"{call.location} takes positions from it")
    units = call.ids_along(source, 1)
    call.add_flops(4 * prod(call.shape) // call.shape[1], units)
    return Labels.along(units, 1, call.shape)


def constant(call: OpCall) -> Any:
    """Tensors made in `forward` have the size that is written there."""
    return call.result(Labels.frozen(call.shape))


def _table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows for name in names.split()}


RULES: dict[str, Rule] = _table(
    (layers.conv, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
    (layers.linear, "linear"),
    (layers.channel_norm, "batch_norm instance_norm"),
    (layers.weight_norm, "_weight_norm _weight_norm_interface"),
    (layers.layer_norm, "layer_norm rms_norm"),
    (layers.group_norm, "group_norm"),
    (layers.prelu, "prelu"),
    (pool, "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"),
    (pool, "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
    (pool, "max_pool2d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d"),
    (pool, "upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d"),
    (pool, "_upsample_nearest_exact1d _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (grid_sample, "grid_sampler"),
    (reduce, "mean sum amax amin max min var std var_mean std_mean logsumexp prod norm linalg_vector_norm argmax any"),
    (reduce, "all"),
    (normalize_dim, "softmax log_softmax cumsum"),
    (matmul, "matmul bmm mm addmm"),
    (attention, "scaled_dot_product_attention"),
    (lookup, "embedding embedding_bag"),
    (elementwise, "dropout feature_dropout alpha_dropout hardtanh hardswish relu6 zeros_like ones_like empty_like"),
    (
        elementwise,
        "rand_like randn_like full_like where masked_fill lerp addcmul addcdiv copy threshold rrelu bernoulli",
    ),
    (reshaping.pass_through, "contiguous clone to _to_copy detach alias type_as float half double"),
    (reshaping.move_data, "permute transpose t movedim swapaxes squeeze unsqueeze expand repeat repeat_interleave"),
    (reshaping.concat, "cat concat stack"),
    (reshaping.move_data, "flip numpy_T mT expand_as"),
    (reshaping.reshape, "view reshape _unsafe_view flatten unflatten view_as reshape_as"),
    (reshaping.split, "chunk split split_with_sizes tensor_split"),
    (reshaping.fixed_positions, "slice select narrow roll unbind unfold"),
    (reshaping.pad, "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
    (reshaping.glu, "glu"),
    (reshaping.unfold_patches, "im2col"),
    (reshaping.pixel_shuffle, "pixel_shuffle"),
    (reshaping.pixel_unshuffle, "pixel_unshuffle"),
    (reshaping.channel_shuffle, "channel_shuffle native_channel_shuffle"),
    (constant, "zeros ones full empty rand randn arange new_zeros new_ones new_full new_empty scalar_tensor"),
)


def rule_for(op: str, target: Any) -> Rule | None:
    """The rule of an operator, or None where nothing is known about it."""
    if op in RULES:
        return RULES[op]
    return elementwise if torch.Tag.pointwise in target.tags else None
