"""The parameters that channels lie in: what writes, reads, scales and shifts them, as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gdp.graph import Axis, ChannelGraph
from gdp.utils import CONV, get_module, named_tensors

Role = Literal["writes", "reads", "scales", "shifts"]
ROLES: tuple[Role, ...] = ("writes", "reads", "scales", "shifts")


@dataclass(frozen=True)
class ChannelTensor:
    """A parameter of the network, and the channels that lie along one of its dimensions.

    Attributes:
        name: plain name of the parameter.
        parameter: as it is trained, without its gate, and maybe cut already.
        dim: the dimension.
        channel: the channel (in vectors of all channels) that every entry along `dim` belongs to, shape (size along
            dim,); the number of all channels where it belongs to none.
    """

    name: str
    parameter: nn.Parameter
    dim: int
    channel: Tensor

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor | None]:
        """The channels that have entries, each once, and their entries.

        Shapes (present,) and (present, most entries of one); a place past the end stands for none. The second is None
        if every entry is the only one of its channel.
        """
        order = self.channel.argsort(stable=True)
        present, counts = self.channel[order].unique_consecutive(return_counts=True)
        if len(present) == len(order):
            return self.channel, None
        within = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        places = order.new_full((len(present), int(counts.max())), len(order))
        places[torch.arange(len(present), device=order.device).repeat_interleave(counts), within] = order
        return present, places

    def sums(self, per_entry: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channels that have entries, each once, and the sum over the entries of each.

        Numbers are added in the same order every time, on GPUs, too: processes that compute the same penalty must not
        come to different weights.

        Args:
            per_entry: a number for every entry along `dim`, shape (size along dim,).
        """
        present, places = self._places
        if places is None:
            return present, per_entry
        return present, torch.cat([per_entry, per_entry.new_zeros(1)])[places].sum(1)

    def expand(self, per_channel: Tensor, rest: float) -> Tensor:
        """Return something that channels have, shaped to be multiplied with the parameter.

        Args:
            per_channel: a number per channel of all groups, shape (channels,).
            rest: for entries that belong to no channel.
        """
        padded = torch.cat([per_channel, per_channel.new_full((1,), rest)])
        shape = [1] * self.parameter.dim()
        shape[self.dim] = -1
        return padded.to(self.parameter.device)[self.channel].view(shape)


def channel_sums(
    tensors: tuple[ChannelTensor, ...], channels: int, function: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the sum of a function over all entries of every channel, differentiable in the parameters.

    Args:
        tensors: parameters.
        channels: of all groups.
        function: makes numbers of the same shape of a parameter; default: squares, in few passes over the parameter.

    Returns:
        Sums, shape (channels,), float32; 0 for channels without an entry.
    """
    device = tensors[0].parameter.device if tensors else None
    total = torch.zeros(channels + 1, dtype=torch.float32, device=device)
    for tensor in tensors:
        others = [d for d in range(tensor.parameter.dim()) if d != tensor.dim]
        total = total.index_add(0, *tensor.sums(_summed(tensor.parameter, others, function)))
    return total[:-1]


def _summed(parameter: Tensor, dims: list[int], function: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return the sums of a function of a parameter over some dimensions, float32.

    Args:
        parameter: of any type.
        dims: maybe none.
        function: makes numbers of the same shape of a parameter; squares if there is none.
    """
    if function is not None:
        values = function(parameter).float()
        return values.sum(dims) if dims else values
    squares: Tensor = _Squares.apply(parameter, dims)
    return squares


class _Squares(torch.autograd.Function):
    """Return the sums of squares of a parameter over some dimensions; forward and backward pass over it once each."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, dims: list[int]) -> Tensor:
        """Return sums, float32: squares of small numbers in float16 would be 0.

        Args:
            ctx: of the function.
            parameter: of any type.
            dims: maybe none.
        """
        ctx.save_for_backward(parameter)
        ctx.shape = [1 if d in dims else size for d, size in enumerate(parameter.shape)]
        if not dims:
            return parameter.float().square()
        kind = torch.promote_types(parameter.dtype, torch.float32)
        norms: Tensor = torch.linalg.vector_norm(parameter, dim=dims, dtype=kind)
        return norms.square().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return twice the parameter, times the gradient of its sums.

        Args:
            ctx: of the function.
            gradient: of the sums.
        """
        (parameter,) = ctx.saved_tensors
        return (parameter * (2 * gradient).view(ctx.shape)).to(parameter.dtype), None


def channel_of_entries(
    graph: ChannelGraph, axes: Iterable[tuple[Axis, slice]], none: int
) -> dict[tuple[str, int], Tensor]:
    """Return the channel of every entry along dimensions of tensors in the dense network.

    Args:
        graph: what `gdp.trace` found in it.
        axes: the dimensions, each with the places of its group in vectors of all channels.
        none: stands for entries that belong to no channel.

    Returns:
        By plain name and dimension, a vector of the tensor's size along it.
    """
    index: dict[tuple[str, int], Tensor] = {}
    for axis, span in axes:
        size = graph.shapes[axis.tensor][axis.dim]
        entry = index.setdefault((axis.tensor, axis.dim), torch.full((size,), none))
        entry[axis.index] = torch.arange(span.start, span.stop)[:, None].expand_as(axis.index)
    return index


def find_channel_tensors(
    model: nn.Module, graph: ChannelGraph, spans: dict[str, slice], removed: Tensor
) -> dict[Role, tuple[ChannelTensor, ...]]:
    """Return the parameters that channels lie in, by what they do with them.

    Args:
        model: the network, cut in part or not.
        graph: what `gdp.trace` found in it.
        spans: the places of every group in vectors of all channels.
        removed: the channels that were cut out of the network, one bool per channel of all groups.
    """
    # the channel of every entry along every dimension in the dense network
    every = ((axis, spans[group.name]) for group in graph.groups for axis in group.tensors)
    index = channel_of_entries(graph, every, len(removed))
    reads = {(axis.tensor, axis.dim) for group in graph.groups for axis in group.reads}

    # the entries that are there now, and each parameter once, however many names it has
    stays = torch.cat([~removed, torch.ones(1, dtype=torch.bool)])
    found: dict[Role, dict[tuple[int, int], ChannelTensor]] = {role: {} for role in ROLES}
    tensors = named_tensors(model)
    for (name, dim), entry in index.items():
        parameter = tensors[name]
        role = "reads" if (name, dim) in reads else _role(model, name, graph.shapes[name])
        if role is not None and isinstance(parameter, nn.Parameter):
            live = entry[stays[entry]].to(parameter.device)
            found[role].setdefault((id(parameter), dim), ChannelTensor(name, parameter, dim, live))
    return {role: tuple(of_role.values()) for role, of_role in found.items()}


def _role(model: nn.Module, name: str, shape: tuple[int, ...]) -> Role | None:
    """Return what a tensor does with channels that it does not read.

    Args:
        model: the network.
        name: plain name of the tensor.
        shape: of the tensor in the dense network.
    """
    path, _, own = name.rpartition(".")
    module = get_module(model, path)
    if isinstance(module, nn.PReLU):  # its weight acts on negative numbers alone
        return None
    if (isinstance(module, CONV | nn.Linear) and own == "weight") or sum(size > 1 for size in shape) > 1:
        return "writes"
    return "shifts" if own.endswith(("bias", "beta", "token")) else "scales"
