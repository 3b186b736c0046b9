"""Feature maps that collide in hashing: a score after HASTE (arXiv 2309.17211)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gdp.errors import GDPError
from gdp.gates import Seen
from gdp.graph import ChannelGraph
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import by_channel, uniform
from gdp.methods.maps import check_may_have_maps, feature_maps, first_shown, mean_over_entries

MAX_HYPERPLANES = 62  # bits of a hash


@dataclass(frozen=True)
class HASTE(GlidingGates):
    """Keep channels whose feature maps look like those of no stronger channel, and the same fraction of every group.

    Maps are cut into patches; the hash of a patch is on which sides of random hyperplanes through 0 it lies. The score
    of a channel is the share of images and patches at which no channel that the same layer reads has the same hash and
    a larger mean square.

    Attributes:
        hyperplanes: bits of a hash, in [1, 62].
        patch: side of a patch; maps that are smaller are one patch.
        images: of every batch that is observed.
        memory: weight of the past in the running mean over batches, in [0, 1).

    Source: the similarity of channels is that of HASTE (arXiv 2309.17211), which hashes and merges channels for every
    input at inference, without training. Own: everything else. This is a score of redundancy and not HASTE: what goes
    is gone for all inputs. Only its abstract could be read, so the numbers are ours. Equal scores, and those of groups
    that only linear layers read, are ordered by the L1 norm of the filters.

    Raises:
        GDPError: an option is out of range, or the network has no feature maps.
    """

    hyperplanes: int = 8
    patch: int = 4
    images: int = 8
    memory: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        hashed = 1 <= self.hyperplanes <= MAX_HYPERPLANES and min(self.patch, self.images) >= 1
        if not (hashed and 0 <= self.memory < 1):
            raise GDPError(
                f"Expected hyperplanes in [1, {MAX_HYPERPLANES}], patch and images of at least 1 and memory in [0, 1), "
                f"but got {self.hyperplanes}, {self.patch}, {self.images} and {self.memory}."
            )

    def check_graph(self, graph: ChannelGraph) -> None:
        """Check that there may be feature maps."""
        check_may_have_maps(graph, type(self).__name__)

    @property
    def observed_batches(self) -> int:
        """One batch before every choice."""
        return 1

    def init_state(self, channels: int) -> MethodState:
        """Return shares of 0."""
        return {"novelty": torch.zeros(channels, dtype=torch.float32)}

    def observe(self, state: MethodState, seen: Seen, context: StepContext) -> MethodState:
        """Take the shares of a batch into the running mean."""
        past = state["novelty"]
        shown = first_shown(feature_maps(seen.activations, type(self).__name__), context.may_stay)
        shares = ((channel, self.novelty(maps[: self.images])) for channel, maps in shown)
        share, is_shown = (found.to(past.device) for found in mean_over_entries(shares, len(past)))
        return {"novelty": torch.where(is_shown, self.memory * past + (1 - self.memory) * share, past)}

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by their shares, equal ones by norm."""
        return uniform(state["novelty"], context, by_channel(context, "writes", torch.abs))

    def novelty(self, maps: Tensor) -> Tensor:
        """Return at which share of images and patches no stronger channel has the same hash, shape (channels,).

        Args:
            maps: shape (images, channels, rows, columns).
        """
        height, width = (min(self.patch, side) for side in maps.shape[2:])
        patches = F.unfold(maps.flatten(0, 1)[:, None], (height, width), stride=(height, width))
        lot = torch.Generator().manual_seed(0)
        planes = torch.randn(self.hyperplanes, height * width, generator=lot, dtype=torch.float32)
        bits = (planes.to(maps.device) @ patches > 0).long()  # (images * channels, hyperplanes, patches)
        weights = 2 ** torch.arange(self.hyperplanes, device=maps.device)
        hashes = (bits * weights[:, None]).sum(1).view(*maps.shape[:2], -1)
        return 1 - collisions(hashes, maps.square().mean((0, 2, 3)))


def collisions(hashes: Tensor, strength: Tensor) -> Tensor:
    """Return at which share of images and patches a stronger channel has the same hash.

    Args:
        hashes: shape (images, channels, patches).
        strength: of every channel, shape (channels,).
    """
    order = strength.argsort(descending=True, stable=True)
    ranked, place = hashes[:, order].sort(dim=1, stable=True)  # the strongest of equal ones comes first
    repeats = torch.zeros_like(ranked, dtype=torch.float32)
    repeats[:, 1:] = (ranked[:, 1:] == ranked[:, :-1]).float()
    share = torch.zeros_like(repeats).scatter_(1, place, repeats).mean((0, 2))
    return torch.empty_like(share).index_copy_(0, order, share)
