"""Export a network by torch.export, leave it as it was, and name the line of the user's source in errors."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental import proxy_tensor
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError
from gdp.tracing.export_mode import ExportMode
from gdp.tracing.shared_caches import shared_caches_cleaned
from gdp.utils import (
    Inputs,
    Snapshot,
    arguments,
    described,
    in_mode,
    output_tensors,
    run_forward,
    unwrapped,
)


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


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Silence torch.export, which prints the graph it has come to when it fails, and advice on attributes.

    What it says against attributes that `forward` sets does not hold here, since they are put back.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.filterwarnings("ignore", message=r"The tensor attributes? .* assigned during export")
            yield
    finally:
        logging.disable(disabled)


def exported(model: nn.Module, inputs: Inputs, training: bool = False) -> ExportedProgram:
    """Export the network as it computes in the given mode.

    Where torch.export can't run `forward` as it is, it reads the code instead (`strict`), which takes longer.

    Args:
        model: the network; it is left as it was.
        inputs: positional inputs, as `forward` takes them.
        training: export what it computes in train mode; default: in eval mode.

    Raises:
        GDPError: the network can't be exported, or its `forward` fails on these inputs; the message holds the short
            reason, and the line of the network's source.
    """
    try:
        return _export(model, inputs, training, strict=False)
    except GDPError:
        raise
    except Exception as error:  # torch.export raises what the user's forward raises, too
        _check_runs(model, inputs, training)
        with suppress(Exception):
            return _export(model, inputs, training, strict=True)
        raise GDPError(
            f"torch.export can't follow {type(model).__name__}.forward on inputs of shape {_shapes(inputs)}: "
            f"{described(error)}. Prune a part of the "
            f"network that has no data-dependent control flow instead, by its name: GDPCallback(module=...) or "
            f"gdp.trace(model.part, ...)."
        ) from error


def _export(model: nn.Module, inputs: Inputs, training: bool, strict: bool) -> ExportedProgram:
    """Export the network, and leave it as it was.

    Args:
        model: the network.
        inputs: positional inputs.
        training: in train mode; else in eval mode.
        strict: read the code of `forward`; else run it.

    Raises:
        RuntimeError: an activation has become a constant on the way, and its channels could not be followed.
        Exception: whatever torch.export and `forward` raise.
    """
    with ExitStack() as stack:
        for context in (in_mode(model, training), torch.no_grad(), _no_garbage_collection()):
            stack.enter_context(context)
        for context in (_no_graph_left_in_torch(), _quiet_torch(), shared_caches_cleaned(model)):
            stack.enter_context(context)
        network = stack.enter_context(unwrapped(model))
        if not strict:
            stack.enter_context(ExportMode())
            _hide_from_export(network)
        program = torch.export.export(network, *arguments(model, inputs), strict=strict)
    lost = [name for name, constant in program.constants.items() if isinstance(constant, FakeTensor)]
    if lost:
        raise RuntimeError(f"what {lost[0]} is computed from is lost")
    return program


def _hide_from_export(network: nn.Module) -> None:
    """Let torch.export see tensors alone, whatever `forward` returns, and none of the attributes that it sets.

    Some versions of torch refuse networks that set attributes; gdp puts them back. The hooks go with everything else.

    Args:
        network: that is exported.
    """
    before: list[Snapshot] = []

    def remember(*_: Any) -> None:
        before.append(Snapshot(network, values=False))

    def finish(_: nn.Module, inputs: Any, outputs: Any) -> tuple[Tensor, ...]:
        before.pop().restore()
        return tuple(output_tensors(outputs))

    network.register_forward_pre_hook(remember)
    network.register_forward_hook(finish)


def _check_runs(model: nn.Module, inputs: Inputs, training: bool) -> None:
    """Check that `forward` itself takes the example input.

    Args:
        model: the network.
        inputs: positional inputs.
        training: in train mode; else in eval mode.

    Raises:
        GDPError: it does not.
    """
    try:
        run_forward(model, inputs, training)
    except Exception as error:  # forward may raise anything
        raise GDPError(
            f"{type(model).__name__}.forward itself fails on the example input of shapes {_shapes(inputs)}: "
            f"{described(error)}. Give an input that it takes."
        ) from error


def _shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    """Return the shapes of all tensors among the inputs.

    Args:
        inputs: positional inputs.
    """
    return [tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, Tensor)]
