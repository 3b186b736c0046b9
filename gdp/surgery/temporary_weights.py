"""Put other numbers into weights for a while: zeros where closed channels are read, random ones for constants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from gdp.graph import ChannelGraph, CutPlan
from gdp.utils import named_tensors

ClosedChannels = dict[str, list[int]]  # name of a group -> indices of its closed channels


@contextmanager
def zero_closed_inputs(model: nn.Module, graph: ChannelGraph, plan: CutPlan, closed: ClosedChannels) -> Iterator[None]:
    """Set weights to zero where they read closed channels, which is the same as gates that are 0; undo it afterwards.

    Args:
        model: the network.
        graph: its channel groups.
        plan: by which the network is cut now.
        closed: indices of the closed channels of every group that has some, in the dense network.
    """
    # factors of the inputs of the dense weights
    scale: dict[tuple[str, int], Tensor] = {}
    for name, indices in closed.items():
        for axis in graph[name].reads:
            size = graph.shapes[axis.tensor][axis.dim]
            scale.setdefault((axis.tensor, axis.dim), torch.ones(size))[axis.index[indices]] = 0.0

    # multiply those that are left onto the weights as they are now
    tensors = named_tensors(model)
    with ExitStack() as undo:
        for (tensor, dim), factor in scale.items():
            weight = tensors[tensor]
            undo.callback(setattr, weight, "data", weight.data)
            kept = plan.keep.get(tensor, {}).get(dim)
            factor = factor if kept is None else factor[list(kept)]
            weight.data = weight.data * factor.to(weight).view([-1 if d == dim else 1 for d in range(weight.dim())])
        yield


@contextmanager
def constants_randomized(model: nn.Module) -> Iterator[None]:
    """Put random numbers in [0.5, 1.5) in place of constant weights and statistics; undo it afterwards.

    A scale of zero, as some networks begin with, would hide differences behind it.

    Args:
        model: the network.
    """
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as undo:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1:
                undo.callback(setattr, tensor, "data", tensor.data)
                if _is_constant(tensor.data):
                    tensor.data = (torch.rand(tensor.shape, generator=generator) + 0.5).to(tensor)
        yield


def _is_constant(data: Tensor) -> bool:
    """Return whether all elements are the same number.

    Args:
        data: of any shape, not empty.
    """
    few = data.flatten()[:16]  # nearly always enough to see that it is not
    return bool((few == few[0]).all()) and bool((data == few[0]).all())
