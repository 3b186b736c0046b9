"""What does not work with gdp is refused in a sentence, before anything has begun."""

from __future__ import annotations

from typing import Any

from torch.optim import LBFGS

from gdp.errors import GDPError

SHARDED = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAFSDPStrategy"}  # of both import families


def check_setup(trainer: Any) -> None:
    """Check that neither the strategy nor another callback stands in the way.

    Args:
        trainer: of either family.

    Raises:
        GDPError: the strategy splits the network's tensors among processes, or another callback prunes.
    """
    for callback in trainer.callbacks:
        if _is_a(callback, {"ModelPruning"}):
            raise GDPError(
                f"{type(callback).__name__} makes products with masks of the network's parameters, which gdp can't "
                "cut. Use one of the two."
            )
    if _is_a(trainer.strategy, SHARDED):
        raise GDPError(
            f"{type(trainer.strategy).__name__} splits the network's tensors among processes, and gdp needs them whole."
            " Use strategy='ddp': convolutional networks fit on one device."
        )


def check_no_lbfgs(trainer: Any) -> None:
    """Check that every optimizer takes single steps.

    Args:
        trainer: of either family, once it has its optimizers.

    Raises:
        GDPError: the run uses LBFGS.
    """
    if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        raise GDPError(
            "LBFGS relies on a loss that stays the same from step to step, but closing gates change it. Use an "
            "optimizer of single steps, such as SGD or AdamW."
        )


def is_finetuned(trainer: Any) -> bool:
    """Return whether a callback freezes layers for a while (BackboneFinetuning and other BaseFinetuning).

    Args:
        trainer: of either family.
    """
    return any(_is_a(callback, {"BaseFinetuning"}) for callback in trainer.callbacks)


def _is_a(thing: object, names: set[str]) -> bool:
    """Return whether a class of one of these names, of either import family, is among the bases of an object.

    Args:
        thing: a callback or strategy.
        names: of classes.
    """
    return not names.isdisjoint(cls.__name__ for cls in type(thing).__mro__)
