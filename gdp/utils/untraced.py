"""Let functions that torch.jit can't trace run untraced while FLOPs are counted, with an operator in their place.

fvcore counts nothing for an operator that it does not know, as it would for these if they could be traced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

torch.library.define("gdp::untraced", "(Tensor[] inputs, Tensor result) -> Tensor")


def _result(inputs: list[Tensor], result: Tensor) -> Tensor:
    """Return the result, which was computed of the inputs."""
    return result.clone()


torch.library.impl("gdp::untraced", "CompositeExplicitAutograd", _result)

_UNTRACEABLE = {F.max_unpool1d, F.max_unpool2d, F.max_unpool3d}  # their checks of sizes, from torch 2.14 on


class UntracedMode(TorchFunctionMode):
    """Run functions that torch.jit can't trace untraced; what they return depends on their arguments in the trace."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _UNTRACEABLE:
            return func(*args, **(kwargs or {}))
        given, named = [_plain(a) for a in args], {name: _plain(a) for name, a in (kwargs or {}).items()}
        with _tracing_paused():
            result = func(*given, **named).detach()
        tensors = [t for t in (*given, *named.values()) if isinstance(t, Tensor)]
        return torch.ops.gdp.untraced(tensors, result)


def _plain(argument: Any) -> Any:
    """Return an argument with numbers in the place of the tensors that sizes are while torch.jit traces.

    Args:
        argument: a tensor, a number, or several numbers.
    """
    if isinstance(argument, list | tuple):
        return [_plain(a) for a in argument]
    return int(argument) if isinstance(argument, Tensor) and argument.dim() == 0 else argument


@contextmanager
def _tracing_paused() -> Iterator[None]:
    """Pause torch.jit's tracing, under which sizes are tensors."""
    jit: Any = torch._C
    state = jit._get_tracing_state()
    jit._set_tracing_state(None)
    try:
        yield
    finally:
        jit._set_tracing_state(state)
