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


def run(model: nn.Module, inputs: Inputs, training: bool = False) -> list[Tensor]:
    """Every output tensor of the network on an example input, which is not changed; in eval mode unless asked."""
    with mode_of(model, training), torch.no_grad():
        return [t.clone() for t in tree_leaves(model(*copied(model, inputs))) if isinstance(t, Tensor)]


def copied(model: nn.Module, inputs: Inputs) -> Inputs:
    """A copy of the example input that `forward` may change, fit for the network."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, inputs_for(model, inputs))


def randomized(inputs: Inputs) -> Inputs:
    """Inputs of the same shapes with random numbers in place of floats: an example of zeros would show nothing."""
    random = torch.Generator().manual_seed(0)

    def other(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=random).to(value)

    return tree_map(other, inputs)


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the network in train or eval mode; afterwards modes, buffers and the RNG are as they were."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            model.train(training)
            yield
        finally:
            for module, was in modes:
                module.training = was
            with torch.no_grad():
                for buffer, value in buffers:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


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
    """The torch functions that a forward calls: name, parameters used, shapes of results; not those on counters."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # on the meta device a result of the input's shape is as good as the input, and far cheaper
        out = args[0] if func in _SAME_SHAPE else func(*args, **(kwargs or {}))
        shapes = [tuple(t.shape) for t in tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
        if shapes:
            used = [self.names[id(a)] for a in tree_leaves((args, kwargs)) if id(a) in self.names]
            self.calls.append((getattr(func, "__name__", str(func)), used, shapes))
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
                with _Recorder({id(t): name for name, t in state.items()}) as recorder:
                    functional_call(model, state, metas)
            except Exception:
                return True
            calls.append(recorder.calls)
    return calls[0] != calls[1]
