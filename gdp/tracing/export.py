"""torch.export, and whether a network computes something else while it trains. Leaves no trace on the model."""

from __future__ import annotations

import gc
import os
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fvcore
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gdp.errors import GDPError
from gdp.standin import StandIn

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
    with mode_of(model, training), torch.no_grad(), uncompiled(model):
        return [t.clone() for t in tree_leaves(model(*copied(model, inputs))) if isinstance(t, Tensor)]


def copied(model: nn.Module, inputs: Inputs) -> Inputs:
    """A copy of the example input that `forward` may change, fit for the network."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, inputs_for(model, inputs))


def randomized(inputs: Inputs, only_constant: bool = False) -> Inputs:
    """Inputs of the same shapes with random numbers in place of floats: an example of zeros would show nothing."""
    generator = torch.Generator().manual_seed(0)

    def other(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
            return value
        if only_constant and bool((value != value.flatten()[0]).any()):
            return value
        return torch.randn(value.shape, generator=generator).to(value)

    return tree_map(other, inputs)


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the network in train or eval mode; afterwards modes, buffers and the RNG are as they were."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [
        (m, name, b, b.detach().clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None
    ]
    devices = {t.device.index for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    python, numpy = random.getstate(), sys.modules.get("numpy")
    numbers = numpy.random.get_state() if numpy is not None else None
    with torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)):
        try:
            model.train(training)
            yield
        finally:
            random.setstate(python)
            if numpy is not None:
                numpy.random.set_state(numbers)
            for module, was in modes:
                module.training = was
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer  # forward may have put another one in its place
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """What torch.compile wrapped or compiled in place runs as it is written: same results, nothing compiled for it."""
    wrapped: list[tuple[Any, Any]] = [
        (m, m.forward) for m in model.modules() if isinstance(m, torch._dynamo.OptimizedModule)
    ]
    in_place = [(m, call) for m in model.modules() if (call := m._compiled_call_impl) is not None]
    try:
        for module, _ in wrapped:
            module.forward = module._orig_mod.__call__
        for module, _ in in_place:
            module._compiled_call_impl = None
        yield
    finally:
        for module, forward in wrapped:
            module.forward = forward
        for module, call in in_place:
            module._compiled_call_impl = call


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collection while hundreds of thousands of graph objects come to life costs a third of an export's time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def exported(model: nn.Module, inputs: Inputs, training: bool = False) -> ExportedProgram:
    """Export the network as it computes in the given mode.

    Raises:
        GDPError: the network can't be exported; the message holds the short reason of torch.export, and the line of
            the network's source.
    """
    with mode_of(model, training), torch.no_grad(), _no_garbage_collection():
        try:
            with StandIn():
                return torch.export.export(model, inputs, strict=False)
        except Exception as error:  # torch.export raises what the user's forward raises, too
            line = source_line(error)
            raise GDPError(
                f"torch.export can't follow {type(model).__name__}.forward on inputs of shape "
                f"{[tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, Tensor)]}: "
                f"{type(error).__name__}: {first_line(error)}{f' at {line}' if line else ''}. Prune a part of the "
                f"network that has no data-dependent control flow instead, by its name: GDPCallback(module=...) or "
                f"gdp.trace(model.part, ...)."
            ) from error


def first_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 200 characters."""
    line = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    return line if len(line) <= 200 else line[:120] + " ... " + line[-75:]


_NOT_THE_USERS = tuple(f"{Path(module).parent}{os.sep}" for module in (torch.__file__, fvcore.__file__, __file__))


def source_line(error: BaseException) -> str:
    """The innermost line of the user's own source that led to an error: `file:line: code`; empty if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if is_users(frame.filename):
                return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
        seen = seen.__cause__ or seen.__context__
    return ""


def is_users(filename: str) -> bool:
    """Whether a source file belongs to neither torch, fvcore nor gdp."""
    return not filename.startswith((*_NOT_THE_USERS, "<"))


def train_inputs(inputs: Inputs) -> Inputs:
    """The inputs twice along the batch dimension: batch norm refuses to train on a single value per channel."""
    return tree_map(lambda t: torch.cat([t, t]) if isinstance(t, Tensor) and t.dim() else t, inputs)


_SAME_SHAPE = {F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.normalize, F.softmax, F.dropout, F.relu}
_SAME_SHAPE |= {F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.relu6, F.hardtanh, F.leaky_relu, F.elu, torch.roll}
_MADE = {"empty", "rand", "randn", "ones", "full", "new_empty", "new_ones", "empty_like", "rand_like", "ones_like"}
_NOISE = {"mul", "mul_", "div", "div_", "add", "add_", "sub", "__mul__", "__imul__", "__add__", "__radd__", "__rmul__"}
_NOISE |= {"bernoulli", "bernoulli_", "uniform_", "floor_", "floor", "__truediv__", "to", "normal_", "type_as"}


class _Recorder(TorchFunctionMode):
    """The torch functions that a forward calls: name, parameters used, shapes of results; not those on counters.

    Random masks (stochastic depth) and their product with an activation are left out: they tie no channels.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[tuple[Any, ...]] = []
        self.noise: dict[int, Tensor] = {}  # held, so that no id is given out twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # on the meta device a result of the input's shape is as good as the input, and far cheaper
        out = args[0] if func in _SAME_SHAPE else func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        shapes = [tuple(t.shape) for t in tensors if t.is_floating_point()]
        name = getattr(func, "__name__", str(func))
        operands = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        noisy = [id(a) in self.noise for a in operands]
        if name in _MADE or (name in _NOISE and noisy and all(noisy)):
            self.noise |= {id(t): t for t in tensors}
        elif shapes and not (name in _NOISE and any(noisy) and shapes[0] in [tuple(a.shape) for a in operands]):
            used = [self.names[id(a)] for a in operands if id(a) in self.names]
            self.calls.append((name, used, shapes))
        return out


def differs_in_training(model: nn.Module, inputs: Inputs) -> bool:
    """Whether `forward` calls other functions in train mode than in eval mode (auxiliary heads).

    Runs on the meta device: nothing is computed, and neither parameters nor buffers are touched. Where that fails, the
    answer is yes, which costs a second export and no more.
    """
    # every slot of every module once: functional_call leaves meta tensors behind in a slot that it is given twice
    once: dict[int, Tensor] = {}
    state = {
        f"{prefix}.{name}".lstrip("."): once.setdefault(id(t), t.to("meta"))
        for prefix, module in model.named_modules()
        for name, t in (*module._parameters.items(), *module._buffers.items())
        if t is not None
    }
    metas = tree_map(lambda t: t.to("meta") if isinstance(t, Tensor) else t, inputs)
    calls = []
    for training in (False, True):
        with mode_of(model, training), torch.no_grad(), torch.device("meta"):
            try:
                with _Recorder({id(t): name for name, t in state.items()}) as recorder:
                    functional_call(model, state, metas, tie_weights=False)
            except Exception:
                return True
            calls.append(recorder.calls)
    return calls[0] != calls[1]
