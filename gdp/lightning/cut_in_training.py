"""Cuts while the network trains: when, whether they are possible, and what has to follow."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gdp.errors import GDPError
from gdp.gates import Gates
from gdp.lightning.averaging import check_unknown_copies
from gdp.lightning.compat import has_communication_state, rebuild_ddp, was_compiled
from gdp.pruning import Pruner
from gdp.surgery import check_optimizers_cuttable
from gdp.utils import first_line, is_compiled


def is_time_to_cut(trainer: Any, pruner: Pruner, stepped: bool, shrink: str | int) -> bool:
    """Return whether closed channels are cut now; at the end of the window they are, however long the epoch is.

    Args:
        trainer: of either family, at the end of a batch.
        pruner: of the run.
        stepped: the batch ended with a step of the pruner.
        shrink: as `GDPCallback` takes it.
    """
    if shrink == "end":
        return False
    regular = trainer.is_last_batch if shrink == "epoch" else stepped and pruner.steps % int(shrink) == 0
    return regular or (stepped and pruner.steps == pruner.window.end)


def check_cuts(trainer: Any, module: nn.Module, gates: Gates) -> None:
    """Check that the network can be cut while it trains.

    Args:
        trainer: of either family, with its strategy and optimizers.
        module: the training module.
        gates: of the network in it.

    Raises:
        GDPError: the strategy, another copy of the network or an optimizer stands in the way.
    """
    _check_strategy(trainer.strategy)
    check_unknown_copies(module, gates.model, gates.copies, trainer.callbacks, trainer.optimizers)
    check_optimizers_cuttable(gates, trainer.optimizers)


def cut_during_training(trainer: Any, module: nn.Module, pruner: Pruner) -> str | None:
    """Cut closed channels in all processes, or in none; DDP and what was compiled follow.

    Args:
        trainer: of either family.
        module: the training module.
        pruner: of the run.

    Returns:
        The reason if that failed, else None.
    """
    undo, failure = None, ""
    try:
        undo = pruner.shrink(trainer.optimizers)
    except Exception as error:  # forward may raise anything
        failure = str(error) if isinstance(error, GDPError) else f"{type(error).__name__}: {first_line(error)}."
    agreed = trainer.strategy.reduce_boolean_decision(not failure)
    if undo is not None and not agreed:
        undo()
    if undo is not None or failure:
        rebuild_ddp(trainer.strategy, module)
        _reset_compiled(module)
    return None if agreed else failure or "The error was raised in another process."


def _check_strategy(strategy: Any) -> None:
    """Check that the strategy keeps the network's tensors in no form of its own.

    Args:
        strategy: of the Trainer.

    Raises:
        GDPError: the strategy neither trains on a single device nor by plain DDP.
    """
    model = strategy.model
    plain = type(model) is DistributedDataParallel and not has_communication_state(strategy)
    if getattr(strategy, "world_size", 1) > 1 and not plain:
        raise GDPError(
            f"{type(strategy).__name__} keeps buffers of the size of the network's tensors, which gdp does not cut. "
            "Cut when training is over: GDPCallback(shrink='end')."
        )


def _reset_compiled(module: nn.Module) -> None:
    """Forget what was compiled for the old sizes: every graph is compiled once for the new ones.

    torch.compile would notice by itself, but it gives up on a function after a few sizes and runs it uncompiled.

    Args:
        module: the training module.
    """
    if was_compiled(module) or any(is_compiled(m) for m in module.modules()):
        torch.compiler.reset()
