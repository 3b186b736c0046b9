"""How the callback gets in between where Lightning calls no callback. Lightning is known by its attributes only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from gdp.errors import GDPError
from gdp.readers import SUFFIX


def extend_once(module: nn.Module, extension: Callable[..., None]) -> Callable[[], None]:
    """Let a call of the hook of that name go to `extension(original, *args)`, once; return what restores the hook."""
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

    def call(*args: Any) -> None:
        restore()
        extension(original, *args)

    extended: Any = call
    extended.retired, extended.own = False, own
    module.__dict__[name] = extended
    return restore


def refuse_gated_state(module: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    """A load_state_dict pre-hook of a small network, for checkpoints that were written before it was cut."""
    if any(name.endswith(SUFFIX) for name in state_dict):
        raise GDPError(
            "This checkpoint was written before the channels were cut and does not fit the small network; nothing was "
            "loaded. Use the network as it is: trainer.test(model, ...). Without a model, Trainer.test takes the best "
            "checkpoint. What gdp.save_pruned wrote is loaded by gdp.load_pruned."
        )


def refuse_setup(trainer: Any) -> None:
    """Say what does not work with gdp before anything has begun.

    Raises:
        GDPError: the strategy trains a copy of the network.
    """
    if getattr(trainer.strategy, "_start_method", "popen") != "popen":
        raise GDPError(
            "gdp needs the network that is trained to be the one you hold, but this strategy trains a copy in "
            "other processes. Use strategy='ddp' from a script instead of ddp_spawn or ddp_notebook."
        )


def total_steps(trainer: Any) -> int:
    """Optimizer steps of the whole run.

    Raises:
        GDPError: the run has no end.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps) or steps < 1:
        raise GDPError(
            "gdp closes channels along the run, so it has to know how long the run is, and this Trainer has no end. "
            "Set max_steps, or max_epochs with limit_train_batches."
        )
    return int(steps)
