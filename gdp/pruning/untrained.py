"""Gated weights that are not trained yet: nothing is known about channels that only they read."""

from __future__ import annotations

from gdp.gates import Gates


class UntrainedWeights:
    """Watch the gated weights that were frozen when a run began.

    Args:
        gates: of the network.
    """

    def __init__(self, gates: Gates) -> None:
        self._weights = [r.weight for r in gates.readers if not r.weight.requires_grad]

    def remain(self) -> bool:
        """Return whether some of them were frozen until now."""
        found = bool(self._weights)
        self._weights = [weight for weight in self._weights if not weight.requires_grad]
        return found
