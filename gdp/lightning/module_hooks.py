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
