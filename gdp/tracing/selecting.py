"""Find the operators of a network that choose positions by comparing values, and so may break ties either way."""

from __future__ import annotations

import operator
from collections.abc import Collection

import torch
from torch.export import ExportedProgram
from torch.fx import Node

# operators that return positions, or a choice of them
POSITIONS = {
    *("argmax", "argmin", "argsort", "bucketize", "count_nonzero", "masked_select", "multinomial", "nms", "nonzero"),
    *("nonzero_numpy", "searchsorted", "_unique", "_unique2", "unique_consecutive", "unique_dim"),
}
# operators that return values and their positions; values alone change by rounding only
VALUES_AND_POSITIONS = {
    *("topk", "sort", "msort", "kthvalue", "median", "nanmedian", "mode", "max", "min", "cummax", "cummin"),
    *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("fractional_max_pool2d", "fractional_max_pool3d"),
}


def selecting_operators(program: ExportedProgram, unused: Collection[Node]) -> tuple[str, ...]:
    """Return the names of the operators that choose positions, each once, in the order in which they run.

    Args:
        program: the network, exported.
        unused: its operators whose results nothing uses.
    """
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node not in unused:
            name = node.target.name().partition("::")[2].partition(".")[0]
            if name in POSITIONS or (name in VALUES_AND_POSITIONS and _uses_positions(node, unused)):
                found[name] = None
    return tuple(found)


def _uses_positions(node: Node, unused: Collection[Node]) -> bool:
    """Return whether anything uses the second result of an operator.

    Args:
        node: the call of the operator.
        unused: operators whose results nothing uses.
    """
    return any(
        user.target is operator.getitem and user.args[1] == 1 and user.users and user not in unused
        for user in node.users
    )
