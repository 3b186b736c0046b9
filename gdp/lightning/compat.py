"""Everything of Lightning that is not public: each thing in one function, each with a contract test.

Lightning comes under two names, `pytorch_lightning` and `lightning.pytorch`, and each knows its own classes only.
Trainers, modules and strategies may be of either, so they are known by their attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Callback", "rank_zero_info", "rank_zero_warn"]

SWA_AVERAGE = "_average_model"  # where StochasticWeightAveraging holds its average


def _callback_classes() -> tuple[type, ...]:
    """Return the Callback of every family that is installed."""
    found = []
    for family in ("pytorch_lightning", "lightning.pytorch"):
        try:
            found.append(import_module(family).Callback)
        except ImportError:
            continue
    return tuple(found)


if TYPE_CHECKING:
    from pytorch_lightning import Callback
else:
    Callback = type("Callback", _callback_classes(), {"__doc__": "A callback for a Trainer of either family."})


def training_data(trainer: Any) -> Any:
    """Return the object whose method `dataloader` gives what the user calls the training loader.

    Args:
        trainer: of either family, inside `fit`.
    """
    return trainer.fit_loop._data_source


def validation_data(trainer: Any) -> Any:
    """Return the same for validation, with a method `is_defined`.

    Args:
        trainer: of either family, inside `fit`.
    """
    return trainer.fit_loop.epoch_loop.val_loop._data_source


def before_batch_transfer(module: Any, batch: Any) -> Any:
    """Return a batch as the hook `on_before_batch_transfer` of the module and its DataModule makes it.

    Args:
        module: the LightningModule.
        batch: on the CPU.
    """
    return module._on_before_batch_transfer(batch, dataloader_idx=0)


def forget_loaded_checkpoint(trainer: Any) -> None:
    """Keep Lightning from loading a refused checkpoint again without being asked.

    Args:
        trainer: of either family.
    """
    trainer._checkpoint_connector._loaded_checkpoint = {}


def trains_in_this_process(trainer: Any) -> bool:
    """Return whether the network that is trained is the one the user holds; spawned processes train a copy.

    Args:
        trainer: of either family.
    """
    return getattr(trainer.strategy, "_start_method", "popen") == "popen"


def has_communication_state(strategy: Any) -> bool:
    """Return whether a DDP communication hook keeps state (PowerSGD).

    Args:
        strategy: of the Trainer.
    """
    return getattr(strategy, "_ddp_comm_state", None) is not None


def rebuild_ddp(strategy: Any, module: nn.Module) -> None:
    """Wrap the module in DDP anew; nothing is broadcast, as every rank has done the same with its own buffers.

    Args:
        strategy: of the Trainer; one without DDP is left as it is.
        module: the training module.
    """
    if not isinstance(strategy.model, DistributedDataParallel):
        return
    forget_hooks: Callable[[], None] = strategy.model._remove_autograd_hooks
    forget_hooks()  # else the old buckets go on waiting for gradients
    strategy.model = module
    settings = strategy._ddp_kwargs
    strategy._ddp_kwargs = {**settings, "init_sync": False}
    try:
        strategy.configure_ddp()
    finally:
        strategy._ddp_kwargs = settings


def was_compiled(module: nn.Module) -> bool:
    """Return whether the user gave Lightning a LightningModule that torch.compile had wrapped.

    Args:
        module: the LightningModule, unwrapped by Lightning.
    """
    return getattr(module, "_compiler_ctx", None) is not None
