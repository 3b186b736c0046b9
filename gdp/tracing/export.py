"""Export a network by torch.export, leave it as it was, and name the line of the user's source in errors."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.experimental import proxy_tensor
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError
from gdp.tracing.batch_norm_shape import BatchNormShapeMode
from gdp.utils import Inputs, attributes_put_back, first_line, in_mode, source_line, unwrapped


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch Python's garbage collection off for a while.

    An export makes hundreds of thousands of graph objects; collecting garbage meanwhile takes a third of its time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _no_graph_left_in_torch() -> Iterator[None]:
    """Empty the table in which some versions of torch keep the last exported graph, for a check that is over by then.

    The graph holds fake tensors, and real ones that forward uses and that are neither a parameter nor a buffer. They
    would outlive the network. torch itself empties the table with every export, and other versions have none.
    """
    try:
        yield
    finally:
        table = getattr(proxy_tensor, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", None)
        if isinstance(table, dict):
            table.clear()


def exported(model: nn.Module, inputs: Inputs, training: bool = False) -> ExportedProgram:
    """Export the network as it computes in the given mode.

    Args:
        model: the network; it is left as it was.
        inputs: positional inputs, as `forward` takes them.
        training: export what it computes in train mode; default: in eval mode.

    Raises:
        GDPError: the network can't be exported; the message holds the short reason of torch.export, and the line of
            the network's source.
    """
    with ExitStack() as stack:
        for context in (in_mode(model, training), torch.no_grad(), attributes_put_back(model)):
            stack.enter_context(context)
        for context in (_no_garbage_collection(), _no_graph_left_in_torch()):
            stack.enter_context(context)
        network = stack.enter_context(unwrapped(model))
        try:
            with BatchNormShapeMode():
                return torch.export.export(network, inputs, strict=False)
        except Exception as error:  # torch.export raises what the user's forward raises, too
            line = source_line(error)
            raise GDPError(
                f"torch.export can't follow {type(model).__name__}.forward on inputs of shape "
                f"{[tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, Tensor)]}: "
                f"{type(error).__name__}: {first_line(error)}{f' at {line}' if line else ''}. Prune a part of the "
                f"network that has no data-dependent control flow instead, by its name: GDPCallback(module=...) or "
                f"gdp.trace(model.part, ...)."
            ) from error
