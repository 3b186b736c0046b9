"""Find out where the time of a training step goes: what each part of gdp takes, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

import gdp
from gdp.gates import gated_layers

PARTS = {
    "multiply": "`gate * weight`, in forward and again for backward",
    "backward": "its own backward",
    "watch": "`watch()`: gradients read",
    "move": "`step()`: gates moved",
    "choose": "`_select()`: channels chosen",
}
STEP, BACKWARD = "whole step", "autograd::engine::evaluate_function: MulBackward0"


def _recorded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def named(*args: Any) -> Any:
        with record_function(name):
            return call(*args)

    return named


def _naming(pruner: gdp.Pruner) -> ExitStack:
    """Put the profiler's names around the parts of gdp, until the stack is closed."""
    stack = ExitStack()
    stack.enter_context(
        mock.patch.object(gated_layers, "gated_weight", _recorded("multiply", gated_layers.gated_weight))
    )
    for name, method in {"watch": "watch", "move": "step", "choose": "_select"}.items():
        stack.enter_context(mock.patch.object(pruner, method, _recorded(name, getattr(pruner, method))))
    return stack


def time_of_parts(
    step: Callable[[], object], pruner: gdp.Pruner, steps: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return milliseconds per step of every part and of the whole step, on the host and, with a GPU, in its kernels.

    Args:
        step: a training step; it must call the pruner by attribute.
        pruner: of the network; its gates must act already.
        steps: a multiple of the steps between two choices and between two readings.
        device: where the network is.
    """
    # run under the profiler
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with _naming(pruner):
        for count in (1, steps):  # the profiler's own first step is slow and thrown away
            with profile(activities=activities) as found:
                for _ in range(count):
                    with record_function(STEP):
                        step()
                        if device.type == "cuda":
                            torch.cuda.synchronize()

    # sum up what carries the names of the parts
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
