"""What wraps a network while it trains, and has to follow when its tensors change: DDP and torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gdp.errors import GDPError


def refuse_strategy(strategy: Any) -> None:
    """Refuse strategies that keep the network's tensors in a form of their own.

    Raises:
        GDPError: the strategy neither trains on a single device nor by plain DDP.
    """
    model = strategy.model
    plain = type(model) is DistributedDataParallel and getattr(strategy, "_ddp_comm_state", None) is None
    if getattr(strategy, "world_size", 1) > 1 and not plain:
        raise GDPError(
            f"{type(strategy).__name__} keeps buffers of the size of the network's tensors, which gdp does not cut. "
            "Cut when training is over: GDPCallback(shrink='end')."
        )


def wrap_anew(strategy: Any, module: nn.Module) -> None:
    """Build DDP anew: its buckets have the sizes of the tensors that it was built with. Nothing is broadcast."""
    if not isinstance(strategy.model, DistributedDataParallel):
        return
    strategy.model._remove_autograd_hooks()  # else the old buckets go on waiting for gradients
    strategy.model = module
    settings = strategy._ddp_kwargs
    strategy._ddp_kwargs = {**settings, "init_sync": False}  # every rank has cut the same; its own buffers stay its own
    try:
        strategy.configure_ddp()
    finally:
        strategy._ddp_kwargs = settings


def compile_anew(module: nn.Module) -> None:
    """Forget what was compiled for the old sizes: every graph is compiled once for the new ones.

    torch.compile would notice by itself, but it gives up on a function after a few sizes and runs it uncompiled.
    """
    if getattr(module, "_compiler_ctx", None) is not None or any(_is_compiled(m) for m in module.modules()):
        torch.compiler.reset()


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None
