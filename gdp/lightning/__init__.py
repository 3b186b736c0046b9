"""GDPCallback, and all that knows Lightning."""

from gdp.lightning.averaging import Copy
from gdp.lightning.callback import GDPCallback
from gdp.lightning.unsupported import check_setup

__all__ = ["Copy", "GDPCallback", "check_setup"]
