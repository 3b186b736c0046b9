"""Lightning comes under two names, `pytorch_lightning` and `lightning.pytorch`, and each knows its own classes only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING


def _callbacks() -> tuple[type, ...]:
    """The Callback of every family that is installed."""
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
    Callback = type("Callback", _callbacks(), {"__doc__": "A callback for a Trainer of either family."})
