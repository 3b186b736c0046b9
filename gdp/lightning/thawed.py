"""Layers that user code thaws in the middle of a run, too late for gdp."""

from __future__ import annotations

from gdp.lightning.compat import rank_zero_warn
from gdp.pruning import Pruner
from gdp.surgery import untrained_reason
from gdp.utils import under_plain_names


class ThawedLayers:
    """Warn, once for each, of layers that were frozen when gdp began and are trained now."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def check(self, pruner: Pruner) -> None:
        """Look at the network, and warn if channels stay for the sake of a layer that is no longer frozen.

        Args:
            pruner: of the network.
        """
        reasons = {frozen.reason for frozen in pruner.graph.frozen}
        parameters = under_plain_names(pruner.gates.model, pruner.gates.model.named_parameters())
        thawed = [name for name, p in parameters.items() if p.requires_grad and untrained_reason(name) in reasons]
        new = [name for name in thawed if name not in self._known]
        if new:
            self._known.update(new)
            rank_zero_warn(
                f"gdp: {', '.join(new[:3])}{' and others' if len(new) > 3 else ''}: frozen when pruning began, trained "
                "now. The channels that these weights read stay, since nothing was known of them. Thaw layers before "
                "fit, or by a finetuning callback of Lightning (BackboneFinetuning or another BaseFinetuning), for "
                "which gdp waits."
            )
