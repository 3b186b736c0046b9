"""Run a network without a trace on it: attributes, tensors and random generators are put back bit for bit."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.utils.inputs import Inputs, arguments, clone_inputs
from gdp.utils.names import plain_name, unwrap
from gdp.utils.outputs import output_tensors
from gdp.utils.snapshot import Snapshot


def run_forward(model: nn.Module, inputs: Inputs, training: bool = False) -> list[Tensor]:
    """Run the network on an example input, as it is written, and return every output tensor.

    Args:
        model: the network; it is left as it was.
        inputs: positional inputs, as `forward` takes them; they are not changed.
        training: run in train mode; default: eval mode.
    """
    with in_mode(model, training):
        return [t.clone() for t in output_tensors(_run_as_written(model, inputs))]


def run_and_keep(model: nn.Module, inputs: Inputs) -> bool:
    """Run the network in the mode that it is in, and leave in it what `forward` keeps (caches, counters).

    Args:
        model: the network.
        inputs: positional inputs, as `forward` takes them; they are not changed.

    Returns:
        Whether it keeps anything.
    """
    before = Snapshot(model)
    _run_as_written(model, inputs)
    return before.changed()


@torch.no_grad()
def _run_as_written(model: nn.Module, inputs: Inputs) -> Any:
    """Return the outputs of a network, whose compiled parts run as they are written: nothing is compiled for this.

    Args:
        model: the network.
        inputs: positional inputs, as `forward` takes them; they are not changed.
    """
    with torch.compiler.set_stance("force_eager"):
        args, kwargs = arguments(model, clone_inputs(model, inputs))
        return model(*args, **kwargs)


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the network in train or eval mode; afterwards it is as it was, and so are random generators.

    What `forward` leaves in plain attributes goes as well: of a pass on tensors without data a cache would hold tensors
    without data, and of a pass of a cut network it would have the cut shape, while the flag or the size beside it says
    that it is good.

    Args:
        model: the network.
        training: train mode; else eval mode.

    Raises:
        GDPError: the network has parameters that are still without a shape.
    """
    with ExitStack() as undo:
        # random generators of torch, of Python, and of numpy if anything has imported it
        devices = {t.device.index for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
        undo.enter_context(torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)))
        undo.callback(random.setstate, random.getstate())
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            undo.callback(numpy.random.set_state, numpy.random.get_state())
        # attributes, modes among them, and the values of tensors
        snapshot = Snapshot(model)
        undo.callback(snapshot.restore)
        model.train(training)
        yield


class _Scripted(nn.Module):
    """Stand in the place of a scripted module, which no tracer can look into.

    Args:
        name: of the module in the network.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to be called.

        Args:
            *args: not used.
            **kwargs: not used.

        Raises:
            GDPError: always.
        """
        raise GDPError(
            f"forward calls {self.name}, which torch.jit has scripted or traced, so its inside can neither be followed "
            "nor cut. Put the Python module that it was made of in its place while the network is pruned, or prune a "
            "part of the network that does not call it: GDPCallback(module=...) or gdp.trace(model.part, ...)."
        )


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Put the modules inside of wrappers in the place of these, for tracers.

    torch.jit.trace refuses compiled functions even under `set_stance("force_eager")`, and torch.export before 2.9
    can't follow them; none should see that inputs are split among devices.

    Args:
        model: the network.

    Yields:
        The network without a wrapper around it or inside of it, without compiled calls, and with a module that refuses
        to be called in place of every scripted one.
    """
    with ExitStack() as undo:
        for path, module in list(model.named_modules()):
            for name, child in list(module.named_children()) if unwrap(module) is module else ():
                inner = unwrap(child)
                if isinstance(inner, torch.jit.ScriptModule) and not isinstance(module, torch.jit.ScriptModule):
                    inner = _Scripted(plain_name(f"{path}.{name}".lstrip(".")))
                if inner is not child:
                    undo.callback(setattr, module, name, child)
                    setattr(module, name, inner)
            if module._compiled_call_impl is not None:  # in place, by module.compile()
                undo.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                module._compiled_call_impl = None
        yield unwrap(model)
