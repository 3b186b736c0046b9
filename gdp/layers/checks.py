"""Check what users ask of layers, and read the options of a conv."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from gdp.errors import GDPError

OPTIONS = ("stride", "padding", "dilation", "padding_mode")


def check_fraction(name: str, value: object) -> None:
    """Check that an option is a number between 0 and 1, both excluded.

    Args:
        name: of the option.
        value: what the user gave.

    Raises:
        GDPError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise GDPError(f"Expected `{name}` to be a number between 0 and 1, both excluded, but got {value!r}.")


def check_not_negative(name: str, value: object) -> None:
    """Check that an option is a finite number that is not negative.

    Args:
        name: of the option.
        value: what the user gave.

    Raises:
        GDPError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0:  # type: ignore[operator]
        raise GDPError(f"Expected `{name}` to be a finite number, at least 0, but got {value!r}.")


def conv_options(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the options that make another conv like this one, but for its channels and kernel size.

    Args:
        conv: any.
    """
    placed = {"bias": conv.bias is not None, "device": conv.weight.device, "dtype": conv.weight.dtype}
    return {**{name: getattr(conv, name) for name in OPTIONS}, **placed}
