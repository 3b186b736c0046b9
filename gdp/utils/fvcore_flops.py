"""FLOPs of a network as fvcore counts them: in eval mode, one fused multiply-add being one FLOP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError
from gdp.utils.inputs import as_input_tuple, clone_inputs
from gdp.utils.module_state import compile_disabled, in_mode
from gdp.utils.tracebacks import first_line, source_line


class _FlatOutput(nn.Module):
    """fvcore's tracer takes tensors and tuples only; dicts of outputs are flattened for it, and kept."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.outputs: list[Tensor] = []

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        found = tuple(leaf for leaf in tree_leaves(self.net(*inputs)) if isinstance(leaf, Tensor))
        self.outputs = [t.detach().clone() for t in found]
        return found


@contextmanager
def _hooks_restored(model: nn.Module) -> Iterator[None]:
    """fvcore leaves its hooks behind when tracing fails."""
    held = [hooks for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks)]
    kept = [(hooks, hooks.copy()) for hooks in held]
    try:
        yield
    finally:
        for hooks, before in kept:  # in place: handles of the user's hooks point here
            hooks.clear()
            hooks.update(before)


def count_and_run(model: nn.Module, example_inputs: Any) -> tuple[int, list[Tensor]]:
    """FLOPs of one forward pass, counted by fvcore, and its outputs. The network is left as it was.

    Raises:
        GDPError: fvcore can't trace the network.
    """
    # with gradients: without them nn.MultiheadAttention takes a fused path that fvcore does not count
    with in_mode(model, training=False), torch.enable_grad(), _hooks_restored(model), compile_disabled(model):
        flat = _FlatOutput(model).eval()
        analysis = FlopCountAnalysis(flat, clone_inputs(model, as_input_tuple(example_inputs)))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        try:
            return int(analysis.total()), flat.outputs
        except Exception as error:
            line = source_line(error)
            raise GDPError(
                f"fvcore can't count the FLOPs of {type(model).__name__}: {type(error).__name__}: {first_line(error)}"
                f"{f' at {line}' if line else ''}. "
                "Prune a part of the network that torch.jit.trace can follow: GDPCallback(module=...)."
            ) from error


def count_flops(model: nn.Module, example_inputs: Any) -> int:
    """FLOPs of one forward pass, counted by fvcore. The network is left as it was.

    Raises:
        GDPError: fvcore can't trace the network.

    >>> count_flops(nn.Conv2d(3, 8, 3, bias=False), torch.zeros(1, 3, 6, 6))
    3456
    """
    return count_and_run(model, example_inputs)[0]


def count_parameters(model: nn.Module) -> int:
    """Number of elements of all parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
