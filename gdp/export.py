"""torch.export, and whether a network computes something else while it trains. Leaves no trace on the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gdp.errors import GDPError

Inputs = tuple[Any, ...]


def as_inputs(example_inputs: Any) -> Inputs:
    """One tensor or a tuple of inputs, as a tuple."""
    if isinstance(example_inputs, tuple):
        return example_inputs
    return tuple(example_inputs) if isinstance(example_inputs, list) else (example_inputs,)


def inputs_for(model: nn.Module, inputs: Inputs) -> Inputs:
    """The example input on the device and in the floating type of the network's weights."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return inputs

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)

    return tree_map(move, inputs)


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Every output tensor of the network in eval mode on an example input."""
    with mode_of(model, training=False), torch.no_grad():
        return [t.clone() for t in tree_leaves(model(*inputs_for(model, inputs))) if isinstance(t, Tensor)]


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the network in train or eval mode; afterwards every module has its own mode back, and the RNG its state."""
    modes = [(m, m.training) for m in model.modules()]
    with torch.random.fork_rng(devices=[]):
        try:
            model.train(training)
            yield
        finally:
            for module, was in modes:
                module.training = was


def exported(model: nn.Module, inputs: Inputs, training: bool = False) -> ExportedProgram:
    """Export the network as it computes in the given mode.

    Raises:
        GDPError: the network can't be exported; the message holds the short reason of torch.export.
    """
    with mode_of(model, training), torch.no_grad():
        try:
            return torch.export.export(model, inputs, strict=False)
        except Exception as error:  # torch.export raises what the user's forward raises, too
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise GDPError(
                f"torch.export can't follow {type(model).__name__}.forward on inputs of shape "
                f"{[tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, Tensor)]}: "
                f"{type(error).__name__}: {reason}. Prune a part of the network that has no data-dependent control "
                f"flow instead, by its name: GDPCallback(module=...) or gdp.trace(model.part, ...)."
            ) from error


def train_inputs(inputs: Inputs) -> Inputs:
    """The inputs twice along the batch dimension: batch norm refuses to train on a single value per channel."""
    return tree_map(lambda t: torch.cat([t, t]) if isinstance(t, Tensor) and t.dim() else t, inputs)


_SAME_SHAPE = {F.batch_norm, F.relu, F.dropout, F.gelu, F.silu, F.hardswish}


class _Recorder(TorchFunctionMode):
    """Names and results' shapes of the torch functions that a forward calls, without those on integer counters."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # on the meta device a result of the input's shape is as good as the input, and far cheaper
        out = args[0] if func in _SAME_SHAPE else func(*args, **(kwargs or {}))
        shapes = [tuple(t.shape) for t in tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
        if shapes:
            self.calls.append((getattr(func, "__name__", str(func)), shapes))
        return out


def differs_in_training(model: nn.Module, inputs: Inputs) -> bool:
    """Whether `forward` calls other functions in train mode than in eval mode (auxiliary heads, stochastic depth).

    Runs on the meta device: nothing is computed, and neither parameters nor buffers are touched. Where that fails, the
    answer is yes, which costs a second export and no more.
    """
    state = {n: t.to("meta") for n, t in (*model.named_parameters(), *model.named_buffers())}
    metas = tree_map(lambda t: t.to("meta") if isinstance(t, Tensor) else t, inputs)
    calls = []
    for training in (False, True):
        with mode_of(model, training), torch.no_grad(), torch.device("meta"):
            try:
                with _Recorder() as recorder:
                    functional_call(model, state, metas)
            except Exception:
                return True
            calls.append(recorder.calls)
    return calls[0] != calls[1]
