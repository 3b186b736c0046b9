"""Feature Flow Regularization: features that go a short and straight way through a residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Seen
from gdp.graph import ChannelGraph
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import globally
from gdp.methods.weights_of_channels import channel_norms, entry_counts


@dataclass(frozen=True)
class FFR(GlidingGates):
    """Add `length * sum_l mean |f_(l+1) - f_l| + curvature * sum_l mean |f_(l+2) - 2 f_(l+1) + f_l|` to the loss.

    f_1, f_2, ... are the features of a residual stream where layers read them, of one shape, in the order of the
    forward pass; the means are over all their elements. Channels are kept by the root mean square of the filters that
    write them, compared over all groups.

    Attributes:
        length: what the length of the way weighs.
        curvature: what its curvature weighs.

    Source: Wu et al., Feature Flow Regularization: Improving Structured Sparsity in Deep Neural Networks, arXiv
    2106.02914: a penalty on length and total absolute curvature of the trajectory of features; filters of small norm go
    then. Own: everything else, as only the abstract could be read: streams alone, where features can be subtracted, the
    norm, both weights, and the score.

    Raises:
        GDPError: an option is out of range.
    """

    length: float = 0.01
    curvature: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.length >= 0 and self.curvature >= 0):
            raise GDPError(f"Expected length and curvature of at least 0, but got {self.length} and {self.curvature}.")

    def check_graph(self, graph: ChannelGraph) -> None:
        """Check that there is a residual stream.

        Raises:
            GDPError: there is none.
        """
        if not _streams(graph):
            raise GDPError(
                "FFR makes features go a short way through residual streams, but in this network no channels are "
                "written and read by several layers. Use method='oicsr' or another method without a loss on features."
            )

    @property
    def adds_loss(self) -> bool:
        """It does."""
        return True

    def forward_loss(self, state: MethodState, seen: Seen, context: StepContext) -> Tensor | None:
        """Return length and curvature of the ways of all streams."""
        terms = []
        for readers in _streams(context.gates.graph):
            features: dict[tuple[int, ...], dict[int, Tensor]] = {}  # by shape; several layers may read one tensor
            for activation in seen.activations:
                if activation.layer in readers:
                    of_shape = features.setdefault(tuple(activation.tensor.shape), {})
                    of_shape[id(activation.tensor)] = activation.tensor
            for way in (list(found.values()) for found in features.values()):
                steps = [after - before for before, after in pairwise(way)]
                terms += [self.length * step.float().abs().mean() for step in steps]
                terms += [self.curvature * (b - a).float().abs().mean() for a, b in pairwise(steps)]
        return torch.stack(terms).sum() if terms else None

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the root mean square of the filters that write a channel, to be compared over all groups."""
        counts = entry_counts(context, "writes").clamp_min(1)
        return globally(channel_norms(context, "writes") / counts.sqrt(), context)


def _streams(graph: ChannelGraph) -> list[set[str]]:
    """Return the layers that read each residual stream: channels that several layers write, and several read.

    Args:
        graph: what `gdp.trace` found in a network.
    """
    found = []
    for group in graph.groups:
        reads = {(axis.tensor, axis.dim) for axis in group.reads}
        shapes = {a.tensor: graph.shapes[a.tensor] for a in group.tensors if (a.tensor, a.dim) not in reads}
        writers = [shape for shape in shapes.values() if len(shape) > 1 and shape[1] > 1]  # not depthwise ones
        if len(writers) > 1 and len(group.readers) > 1:
            found.append(set(group.readers))
    return found
