"""GDPCallback, and all that knows Lightning."""

from gdp.lightning.averaging import Copy
from gdp.lightning.callback import GDPCallback
from gdp.lightning.unsupported import refuse_setup

__all__ = ["Copy", "GDPCallback", "refuse_setup"]
