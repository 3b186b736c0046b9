"""TODO."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gdp.utils.inputs import Inputs, clone_inputs


def run_forward(model: nn.Module, inputs: Inputs, training: bool = False) -> list[Tensor]:
    """Every output tensor of the network on an example input, which is not changed; in eval mode unless asked."""
    with in_mode(model, training), torch.no_grad(), compile_disabled(model):
        return [t.clone() for t in tree_leaves(model(*clone_inputs(model, inputs))) if isinstance(t, Tensor)]


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
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
def compile_disabled(model: nn.Module) -> Iterator[None]:
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
