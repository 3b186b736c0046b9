"""Look up the rule of an ATen operator. An operator without a rule freezes all channels that it meets.

Every rule is a function of one argument, `call`: an `OpCall`, which holds the arguments of the operator by name and the
state of the pass. It returns what the operator returns, with `Labels` (or `ParamRef`, for a parameter that is only
moved) in place of tensors, and notes in the state which channel ids the operator joins, freezes or carries in
parameters, and its FLOPs as fvcore counts them. This is why the docstrings of rules have no `Args:`; rules whose
docstrings do not speak of FLOPs add none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gdp.tracing.op_call import OpCall
from gdp.tracing.rules import layers, opaque, pooling, recurrent, reshaping
from gdp.tracing.rules.elementwise import elementwise

Rule = Callable[[OpCall], Any]


@dataclass(frozen=True)
class OperatorRule:
    """A rule of the table, and whether sizes that are written in the user's line are worth noting.

    Attributes:
        apply: the rule; see the top of this file.
        notes_sizes: whether the user's line is remembered if a number of channels is written in it. Such a line can't
            follow a cut, and is then named where the dry run fails.
    """

    apply: Rule
    notes_sizes: bool


def _rows(notes_sizes: bool, *rows: tuple[Rule, str]) -> dict[str, OperatorRule]:
    """Return the rule of every operator, by name.

    Args:
        notes_sizes: of all these rules.
        rows: a rule and the base names of its operators, separated by blanks.
    """
    return {name: OperatorRule(rule, notes_sizes) for rule, names in rows for name in names.split()}


RULES = _rows(
    False,
    (layers.conv, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
    (layers.linear, "linear"),
    (recurrent.recurrent, "lstm gru rnn_tanh rnn_relu"),
    (recurrent.cell, "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
    (layers.channel_norm, "batch_norm instance_norm"),
    (layers.weight_norm, "_weight_norm _weight_norm_interface"),
    (layers.layer_norm, "layer_norm rms_norm"),
    (layers.group_norm, "group_norm"),
    (layers.prelu, "prelu"),
    (pooling.pool, "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"),
    (
        pooling.pool,
        "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    ),
    (
        pooling.pool,
        "max_pool2d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d",
    ),
    (pooling.pool, "upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d"),
    (
        pooling.pool,
        "_upsample_nearest_exact1d _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    ),
    (pooling.pool, "max_pool1d_with_indices max_pool3d_with_indices"),
    (pooling.unpool, "max_unpool2d max_unpool3d"),
    (pooling.grid_sample, "grid_sampler"),
    (
        pooling.reduce,
        "mean sum amax amin max min var std var_mean std_mean logsumexp prod norm linalg_vector_norm argmax any",
    ),
    (pooling.reduce, "all"),
    (pooling.normalize_dim, "softmax log_softmax cumsum"),
    (opaque.matmul, "matmul bmm mm addmm"),
    (opaque.attention, "scaled_dot_product_attention"),
    (opaque.lookup, "embedding embedding_bag"),
    (opaque.positions, "index_select"),
    (opaque.constant, "zeros ones full empty rand randn arange new_zeros new_ones new_full new_empty scalar_tensor"),
) | _rows(
    True,
    (elementwise, "dropout feature_dropout alpha_dropout hardtanh hardswish relu6 zeros_like ones_like empty_like"),
    (
        elementwise,
        "rand_like randn_like full_like where masked_fill lerp addcmul addcdiv copy threshold rrelu bernoulli",
    ),
    (elementwise, "leaky_relu elu celu selu hardsigmoid ldexp"),  # torch 2.8 does not mark them as pointwise
    (reshaping.pass_through, "contiguous clone to _to_copy detach alias type_as float half double"),
    (reshaping.move_data, "permute transpose t movedim swapaxes squeeze unsqueeze repeat_interleave"),
    (reshaping.broadcast, "expand expand_as repeat tile broadcast_to broadcast_tensors"),
    (reshaping.concat, "cat concat stack"),
    (reshaping.move_data, "flip numpy_T mT"),
    (reshaping.reshape, "view reshape _unsafe_view flatten unflatten view_as reshape_as"),
    (reshaping.split, "chunk split split_with_sizes tensor_split"),
    (reshaping.fixed_positions, "slice select narrow roll unbind unfold"),
    (reshaping.pad, "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
    (reshaping.glu, "glu"),
    (reshaping.unfold_patches, "im2col"),
    (reshaping.pixel_shuffle, "pixel_shuffle"),
    (reshaping.pixel_unshuffle, "pixel_unshuffle"),
    (reshaping.channel_shuffle, "channel_shuffle native_channel_shuffle"),
)

_ELEMENTWISE = OperatorRule(elementwise, notes_sizes=True)


def rule_for(op: str, target: Any) -> OperatorRule | None:
    """Return the rule of an operator, or None where nothing is known about it.

    Args:
        op: base name without overload and in-place mark.
        target: the operator; one that torch marks as pointwise needs no row of its own.
    """
    return RULES.get(op) or (_ELEMENTWISE if torch.Tag.pointwise in target.tags else None)
