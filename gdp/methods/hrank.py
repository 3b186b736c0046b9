"""Ranks of feature maps: HRank (Lin et al., CVPR 2020, arXiv 2002.10179)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Seen
from gdp.graph import ChannelGraph
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, uniform
from gdp.methods.maps import check_may_have_maps, feature_maps, first_shown, mean_over_entries


@dataclass(frozen=True)
class HRank(GlidingGates):
    """Keep channels whose feature maps have high ranks, and the same fraction of every group.

    The score of channel c is the mean over images of `rank(A_c)`, A_c being its map (rows, columns) where the first
    layer with maps reads it, behind the activation function.

    Attributes:
        images: of every batch that is observed; the authors have 5 batches of 128, once.
        rounds: ranks are measured anew so many times within the window, each time instead of those before.

    Source: HRank (Lin et al., CVPR 2020, arXiv 2002.10179). Own: ranks are measured in training instead of once in a
    trained network; kept filters are all trained, none is frozen. A rank is at most the smaller side of the map, so
    small maps have many equal ones: among these, and where only linear layers read a group, which have no maps, the L1
    norm of the filters decides.

    Raises:
        GDPError: an option is out of range, or the network has no feature maps.
    """

    images: int = 16
    rounds: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(number, int) and number >= 1 for number in (self.images, self.rounds)):
            raise GDPError(f"Expected images and rounds of at least 1, but got {self.images} and {self.rounds}.")

    def check_graph(self, graph: ChannelGraph) -> None:
        """Check that there may be feature maps."""
        check_may_have_maps(graph, type(self).__name__)

    @property
    def observed_batches(self) -> int:
        """One batch before every choice; its ranks are measured where a round begins."""
        return 1

    def init_state(self, channels: int) -> MethodState:
        """Return ranks of 0, and no round of measurement."""
        return {"rank": torch.zeros(channels, dtype=torch.float32), "measured": torch.zeros((), dtype=torch.float32)}

    def observe(self, state: MethodState, seen: Seen, context: StepContext) -> MethodState:
        """Measure ranks, if they are of an earlier round."""
        now = 1.0 + int(self.rounds * context.progress)
        if float(state["measured"]) >= now:
            return state
        shown = first_shown(feature_maps(seen.activations, type(self).__name__), context.may_stay)
        ranks = ((channel, torch.linalg.matrix_rank(maps[: self.images]).float().mean(0)) for channel, maps in shown)
        rank, is_shown = (found.to(state["rank"].device) for found in mean_over_entries(ranks, len(state["rank"])))
        return {
            "rank": torch.where(is_shown, rank, state["rank"]),
            "measured": torch.full_like(state["measured"], now),
        }

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by rank, those of one rank by norm."""
        return uniform(state["rank"], context, by_channel(context, "writes", torch.abs))
