"""Bytes of tensors: what a training step leaves lying there, the most that is alive within it; and of the process."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn

PROCESS = Path("/proc/self")  # of Linux


def state_bytes(net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of parameters, buffers and optimizer state: what lies there between steps, gradients dropped.

    Args:
        net: whose parameters and buffers are counted.
        optimizer: whose state is counted.
    """
    state = [value for values in optimizer.state.values() for value in values.values()]
    tensors = [t for t in [*net.parameters(), *net.buffers(), *state] if isinstance(t, torch.Tensor)]
    return sum({id(t): t.nbytes for t in tensors}.values())


def peak_rise(step: Callable[[], object], device: torch.device) -> int:
    """Return the bytes by which live tensors grow from the beginning of a step to its worst moment.

    On a CPU these are the allocations that torch's profiler sees, on a GPU what `max_memory_allocated` says.

    Args:
        step: is called once.
        device: where it computes.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.autograd.profiler.profile(profile_memory=True) as found:
        step()
    events = sorted((e for e in found.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in events), initial=0))


def forget_peak() -> int:
    """Let `process_peak` count from here on, where Linux allows it, and return what it is now.

    Elsewhere it goes on counting since the process began.
    """
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return process_peak()


def process_peak() -> int:
    """Return the most bytes that this process has held: of a GPU's memory if there is one, else of main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if (PROCESS / "status").exists():
        held = re.search(r"VmHWM:\s*(\d+) kB", (PROCESS / "status").read_text())
        if held is not None:
            return int(held[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
