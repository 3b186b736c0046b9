"""Where a training step's memory and time go: the peak of live tensor bytes, and what each part of gdp takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

import gdp
from gdp.gates import gated_layers as readers

PARTS = {
    "multiply": "`gate * weight`, in forward and again for backward",
    "backward": "its own backward",
    "watch": "`watch()`: gradients read",
    "move": "`step()`: gates moved",
    "choose": "`_select()`: channels chosen",
}
STEP, BACKWARD = "whole step", "autograd::engine::evaluate_function: MulBackward0"


def state_bytes(net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers and optimizer state: what lies there between steps, gradients dropped."""
    state = [value for values in optimizer.state.values() for value in values.values()]
    tensors = [t for t in [*net.parameters(), *net.buffers(), *state] if isinstance(t, torch.Tensor)]
    return sum({id(t): t.nbytes for t in tensors}.values())


def peak_rise(step: Callable[[], object], device: torch.device) -> int:
    """Bytes by which live tensors grow from the beginning of a step to its worst moment."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.autograd.profiler.profile(profile_memory=True) as found:
        step()
    events = sorted((e for e in found.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in events), initial=0))


def _recorded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def named(*args: Any) -> Any:
        with record_function(name):
            return call(*args)

    return named


def _naming(pruner: gdp.Pruner) -> ExitStack:
    """Put the profiler's names around the parts of gdp, until the stack is closed."""
    stack = ExitStack()
    stack.enter_context(mock.patch.object(readers, "gated_weight", _recorded("multiply", readers.gated_weight)))
    for name, method in {"watch": "watch", "move": "step", "choose": "_select"}.items():
        stack.enter_context(mock.patch.object(pruner, method, _recorded(name, getattr(pruner, method))))
    return stack


def time_of_parts(
    step: Callable[[], object], pruner: gdp.Pruner, steps: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Milliseconds per step of every part and of the whole step, on the host and, with a GPU, in its kernels.

    `step` must call the pruner by attribute, gates must act already, and `steps` should be a multiple of the steps
    between two choices and two readings.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with _naming(pruner):
        for count in (1, steps):  # the profiler's own first step is slow and thrown away
            with profile(activities=activities) as found:
                for _ in range(count):
                    with record_function(STEP):
                        step()
                        if device.type == "cuda":
                            torch.cuda.synchronize()
    events = [e for e in found.events() if e.device_type == DeviceType.CPU]
    forward = {c.sequence_nr for e in events if e.name == "multiply" for c in e.cpu_children if c.name == "aten::mul"}

    def total(what: str) -> dict[str, float]:
        host = {name: sum(getattr(e, what) for e in events if e.name == name) for name in [STEP, *PARTS]}
        host["backward"] = sum(getattr(e, what) for e in events if e.name == BACKWARD and e.sequence_nr in forward)
        host["move"] -= host["choose"]  # channels are chosen inside `step()`
        return {name: value / 1e3 / steps for name, value in host.items()}

    if device.type != "cuda":
        return {"host": total("cpu_time_total")}
    kernels = sum(e.self_device_time_total for e in events) / 1e3 / steps  # backward has a thread of its own
    return {"host": total("cpu_time_total"), "kernels": total("device_time_total") | {STEP: kernels}}
