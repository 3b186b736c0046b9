"""What takes part in a run and has to follow when the network is cut: averages, optimizers, DDP and torch.compile.

A `trainer` is Lightning's, known by its attributes only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gdp.errors import GDPError
from gdp.gates import Gates
from gdp.lightning.averaging import check_unknown_copies, find_averages
from gdp.pruning import Pruner
from gdp.surgery import check_optimizers_cuttable


def track_averages(trainer: Any, module: nn.Module, name: str, gates: Gates) -> None:
    """Gate the averages of the network, `name` in the training module; from now on they are cut along."""
    for part, copy in find_averages(module, name, gates.model, trainer.callbacks):
        gates.track_copy(copy, part)


def check_cuts(trainer: Any, module: nn.Module, gates: Gates) -> None:
    """Say early that the network can't be cut while it trains.

    Raises:
        GDPError: the strategy, another copy of the network or an optimizer stands in the way.
    """
    _check_strategy(trainer.strategy)
    check_unknown_copies(module, gates.model, gates.copies, trainer.callbacks, trainer.optimizers)
    check_optimizers_cuttable(gates, trainer.optimizers)


def cut_during_training(trainer: Any, module: nn.Module, pruner: Pruner) -> str | None:
    """Cut closed channels in all processes, or in none; return the reason if that failed."""
    undo, failure = None, ""
    try:
        undo = pruner.shrink(trainer.optimizers)
    except GDPError as error:
        failure = str(error)
    agreed = trainer.strategy.reduce_boolean_decision(not failure)
    if undo is not None and not agreed:
        undo()
    if undo is not None or failure:
        _rebuild_ddp(trainer.strategy, module)
        _reset_compiled(module)
    return None if agreed else failure or "The error was raised in another process."


def _check_strategy(strategy: Any) -> None:
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


def _rebuild_ddp(strategy: Any, module: nn.Module) -> None:
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


def _reset_compiled(module: nn.Module) -> None:
    """Forget what was compiled for the old sizes: every graph is compiled once for the new ones.

    torch.compile would notice by itself, but it gives up on a function after a few sizes and runs it uncompiled.
    """
    if getattr(module, "_compiler_ctx", None) is not None or any(_is_compiled(m) for m in module.modules()):
        torch.compiler.reset()


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None
