"""How a run gets in between where Lightning calls no callback: hooks of the LightningModule, extended for once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def extend_once(module: nn.Module, extension: Callable[..., Any]) -> Callable[[], None]:
    """Let the next call of a hook go to an extension; return what restores the hook.

    Args:
        module: the LightningModule.
        extension: a function of the hook's name, called as `extension(original, ...)`; returns what the hook is to.
    """
    name = extension.__name__
    before, original = vars(module).get(name), getattr(module, name)

    def restore() -> None:
        extended.retired = True
        current: Any = vars(module).get(name)
        while getattr(current, "retired", False):  # others may have extended it as well
            del vars(module)[name]
            current = current.before
            if current is not None:
                vars(module)[name] = current

    def call(*args: Any, **kwargs: Any) -> Any:
        restore()
        return extension(original, *args, **kwargs)

    extended: Any = call
    extended.retired, extended.before = False, before
    vars(module)[name] = extended
    return restore


def once_seen(module: nn.Module, then: Callable[[Any, int], None]) -> Callable[[], None]:
    """Do something when all hooks have seen the batch that is about to start; return what cancels it.

    Args:
        module: the LightningModule.
        then: is called with the batch and its number, unless a hook has the batch left out.
    """

    def on_train_batch_start(original: Callable[..., Any], batch: Any, batch_idx: int) -> Any:
        response = original(batch, batch_idx)
        if response != -1:  # which leaves the batch out
            then(batch, batch_idx)
        return response

    return extend_once(module, on_train_batch_start)
