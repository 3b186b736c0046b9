"""GDPCallback, and all that knows Lightning."""

from gdp.lightning.callback import GDPCallback
from gdp.lightning.layers_callback import LayersCallback
from gdp.lightning.unsupported import check_setup

__all__ = ["GDPCallback", "LayersCallback", "check_setup"]
