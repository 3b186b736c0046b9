"""How the callback gets in between where Lightning calls no callback. Lightning is known by its attributes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import LBFGS

from gdp.errors import GDPError

SHARDED = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAFSDPStrategy"}  # of both import families


def extend_once(module: nn.Module, extension: Callable[..., None]) -> Callable[[], None]:
    """Let a call of the hook of that name go to `extension(original, ...)`, once; return what restores the hook."""
    name, own = extension.__name__, module.__dict__.get(extension.__name__)
    original = getattr(module, name)

    def restore() -> None:
        extended.retired = True
        current: Any = module.__dict__.get(name)
        while getattr(current, "retired", False):  # others may have extended it as well
            del module.__dict__[name]
            current = current.own
            if current is not None:
                module.__dict__[name] = current

    def call(*args: Any, **kwargs: Any) -> None:
        restore()
        extension(original, *args, **kwargs)

    extended: Any = call
    extended.retired, extended.own = False, own
    module.__dict__[name] = extended
    return restore


def check_setup(trainer: Any) -> None:
    """Say what does not work with gdp before anything has begun.

    Raises:
        GDPError: the strategy splits the network's tensors among processes, or another callback prunes.
    """
    for callback in trainer.callbacks:
        if "ModelPruning" in {cls.__name__ for cls in type(callback).__mro__}:
            raise GDPError(
                f"{type(callback).__name__} makes products with masks of the network's parameters, which gdp can't "
                "cut. Use one of the two."
            )
    strategy = trainer.strategy
    if SHARDED & {cls.__name__ for cls in type(strategy).__mro__}:
        raise GDPError(
            f"{type(strategy).__name__} splits the network's tensors among processes, and gdp needs them whole. Use "
            "strategy='ddp': convolutional networks fit on one device."
        )


def trains_in_this_process(trainer: Any) -> bool:
    """Whether the network that is trained is the one the user holds; spawned and forked processes train a copy."""
    return getattr(trainer.strategy, "_start_method", "popen") == "popen"


def check_no_lbfgs(trainer: Any) -> None:
    """Say that LBFGS does not go with gates.

    Raises:
        GDPError: the run uses it.
    """
    if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        raise GDPError(
            "LBFGS relies on a loss that stays the same from step to step, but closing gates change it. Use an "
            "optimizer of single steps, such as SGD or AdamW."
        )


def is_finetuned(trainer: Any) -> bool:
    """Whether a callback of the run freezes layers for a while (BackboneFinetuning and other BaseFinetuning)."""
    return any(cls.__name__ == "BaseFinetuning" for c in trainer.callbacks for cls in type(c).__mro__)
