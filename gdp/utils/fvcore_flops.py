"""Count the FLOPs of a network by fvcore: in eval mode, one fused multiply-add being one FLOP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.utils.inputs import arguments, as_inputs, clone_inputs
from gdp.utils.module_state import in_mode, run_forward, unwrapped
from gdp.utils.outputs import output_tensors
from gdp.utils.tracebacks import described
from gdp.utils.untraced import UntracedMode


class _FlatOutput(nn.Module):
    """Flatten the outputs of a network, since fvcore's tracer takes tensors and tuples only, and keep them.

    Attributes:
        net: the network.
        outputs: copies of every output tensor of the last forward pass.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.outputs: list[Tensor] = []

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Run the network, keep its outputs, and return them as a flat tuple.

        Args:
            *inputs: positional inputs of the network.
        """
        args, kwargs = arguments(self.net, inputs)
        found = tuple(output_tensors(self.net(*args, **kwargs)))
        self.outputs = [t.detach().clone() for t in found]
        return found


@contextmanager
def _quiet_fvcore() -> Iterator[None]:
    """Silence fvcore's warnings about the operators it skips; afterwards its logger has the level it had."""
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention from the fused path that it takes without gradients, which fvcore does not count."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def count_and_run(model: nn.Module, example_inputs: Any) -> tuple[int, list[Tensor]]:
    """Count the FLOPs of one forward pass by fvcore, and return its outputs, too. The network is left as it was.

    Args:
        model: the network.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them.

    Returns:
        FLOPs, and every output tensor.

    Raises:
        GDPError: fvcore can't trace the network.
    """
    with ExitStack() as stack:
        # make the network traceable; all of it is undone on leaving, hooks that fvcore leaves behind on errors as well
        stack.enter_context(in_mode(model, training=False))
        for context in (torch.no_grad(), _no_fused_attention(), _quiet_fvcore(), UntracedMode()):
            stack.enter_context(context)
        network = stack.enter_context(unwrapped(model))
        # count, quietly
        flat = _FlatOutput(network).eval()
        analysis = FlopCountAnalysis(flat, clone_inputs(model, as_inputs(model, example_inputs)))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        try:
            flops = int(analysis.total())
        except GDPError:
            raise
        except Exception as error:
            raise GDPError(
                f"fvcore can't count the FLOPs of {type(model).__name__}: {described(error)}. "
                "Prune a part of the network that torch.jit.trace can follow: GDPCallback(module=...)."
            ) from error
    # sizes and other numbers among the outputs are tensors to torch.jit.trace alone
    has_numbers = any(t.dim() == 0 for t in flat.outputs)
    return flops, run_forward(model, as_inputs(model, example_inputs)) if has_numbers else flat.outputs


def count_flops(model: nn.Module, example_inputs: Any) -> int:
    """Count the FLOPs of one forward pass by fvcore. The network is left as it was.

    Args:
        model: the network.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them.

    Raises:
        GDPError: fvcore can't trace the network.

    >>> count_flops(nn.Conv2d(3, 8, 3, bias=False), torch.zeros(1, 3, 6, 6))
    3456
    """
    return count_and_run(model, example_inputs)[0]


def count_parameters(model: nn.Module) -> int:
    """Return the number of elements of all parameters, shared ones counted once.

    Args:
        model: any module.
    """
    return sum(p.numel() for p in model.parameters())
