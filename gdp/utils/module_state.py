"""Run a network without a trace on it: modes, buffers and random generators are put back bit for bit."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gdp.utils.inputs import Inputs, clone_inputs
from gdp.utils.names import unwrap


def run_forward(model: nn.Module, inputs: Inputs, training: bool = False) -> list[Tensor]:
    """Run the network on an example input, as it is written, and return every output tensor.

    Args:
        model: the network; it is left as it was.
        inputs: positional inputs, as `forward` takes them; they are not changed.
        training: run in train mode; default: eval mode.
    """
    # what torch.compile made runs as it is written: same results, and nothing is compiled for this
    with in_mode(model, training), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return [t.clone() for t in tree_leaves(model(*clone_inputs(model, inputs))) if isinstance(t, Tensor)]


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the network in train or eval mode; afterwards modes, buffers and random generators are as they were.

    Args:
        model: the network.
        training: train mode; else eval mode.
    """
    with ExitStack() as undo:
        # random generators of torch, of Python, and of numpy if anything has imported it
        devices = {t.device.index for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
        undo.enter_context(torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)))
        undo.callback(random.setstate, random.getstate())
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            undo.callback(numpy.random.set_state, numpy.random.get_state())
        # modes and buffers
        for module in model.modules():
            undo.callback(setattr, module, "training", module.training)
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
                undo.callback(_put_back, module, name, buffer, buffer.detach().clone())
        model.train(training)
        yield


@contextmanager
def attributes_put_back(model: nn.Module) -> Iterator[None]:
    """Undo what `forward` sets in plain attributes, where it runs on tensors without data.

    A cached tensor would be a fake one from then on, and the flag or the size beside it would say that it is good. So
    every attribute is put back, and a new one is deleted. After a forward on real data a cache is valid; it stays.

    Args:
        model: the network.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            now = vars(module)
            for name in [n for n in now if n not in attributes]:
                del now[name]
            now.update(attributes)


@torch.no_grad()
def _put_back(module: nn.Module, name: str, buffer: Tensor, value: Tensor) -> None:
    """Put a buffer back in its place, where `forward` may have put another one, with the values that it had.

    Args:
        module: that holds the buffer.
        name: of the buffer in this module.
        buffer: the tensor that was in its place.
        value: a copy of what it held, of the same shape.
    """
    module._buffers[name] = buffer
    if not torch.equal(buffer, value):
        buffer.copy_(value)


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Put the modules inside of wrappers in the place of these, for tracers.

    torch.jit.trace refuses compiled functions even under `set_stance("force_eager")`, and torch.export before 2.9
    can't follow them; none should see that inputs are split among devices.

    Args:
        model: the network.

    Yields:
        The network without a wrapper around it or inside of it, and without compiled calls.
    """
    with ExitStack() as undo:
        for module in list(model.modules()):
            for name, child in list(module.named_children()) if unwrap(module) is module else ():
                if unwrap(child) is not child:
                    undo.callback(setattr, module, name, child)
                    setattr(module, name, unwrap(child))
            if module._compiled_call_impl is not None:  # in place, by module.compile()
                undo.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                module._compiled_call_impl = None
        yield unwrap(model)
