"""Plan: the frozen decision which channels go. Plain ints, the only thing that has to survive a crash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.graph.channel_graph import ChannelGraph
from gdp.graph.residual_branch import ResidualBranch


@dataclass(frozen=True)
class CutPlan:
    """Which channels of a network go, and so which entries of every tensor stay.

    Attributes:
        shapes: dense shape of every parameter and buffer.
        keep: for every tensor that gets smaller, the kept indices along each dimension that is cut.
        blocks: residual branches that go as a whole.
    """

    shapes: dict[str, tuple[int, ...]]
    keep: dict[str, dict[int, tuple[int, ...]]]
    blocks: tuple[ResidualBranch, ...] = ()

    @classmethod
    def of(cls, graph: ChannelGraph, closed: Mapping[str, Sequence[int]]) -> CutPlan:
        """Decide that `closed[group]` go.

        Raises:
            GDPError: no such group or channel, or a group would lose its last channel.
        """
        all_closed = {name for name, indices in closed.items() if len(set(indices)) == graph[name].size}
        blocks = tuple(block for block in graph.blocks if all_closed.issuperset(block.reads))
        inside = {name for block in blocks for name in block.groups}
        gone: dict[tuple[str, int], Tensor] = {}
        for name, indices in closed.items():
            group, index = graph[name], torch.as_tensor(sorted(set(indices)), dtype=torch.long)
            if len(index) == 0:
                continue
            if int(index[0]) < 0 or int(index[-1]) >= group.size:
                raise GDPError(
                    f"Expected channel indices of {name!r} in [0, {group.size - 1}], but got {index.tolist()}."
                )
            if name in inside:
                continue
            if len(index) == group.size:
                raise GDPError(f"All {group.size} channels of {name!r} are closed; at least one has to stay.")
            for axis in group.tensors:
                mask = gone.setdefault(
                    (axis.tensor, axis.dim), torch.zeros(graph.shapes[axis.tensor][axis.dim], dtype=torch.bool)
                )
                mask[axis.index[index].flatten()] = True
        keep: dict[str, dict[int, tuple[int, ...]]] = {}
        for (tensor, dim), mask in gone.items():
            keep.setdefault(tensor, {})[dim] = tuple(torch.nonzero(~mask).flatten().tolist())
        return cls(dict(graph.shapes), keep, blocks)

    def compose(self, first: CutPlan) -> CutPlan:
        """This plan, made for a network that `first` had cut already, as one plan for the dense network."""
        keep = {tensor: dict(dims) for tensor, dims in first.keep.items()}
        held = {f"{b.last_layer}.bias": _dense_sources(b, first.shapes) for b in first.blocks}
        for tensor, dims in self.keep.items():
            for name in held.get(tensor, [tensor]):  # what a block left was a tensor of the dense network
                for dim, kept in dims.items():
                    before = first.keep.get(name, {}).get(dim, range(first.shapes[name][dim]))
                    keep.setdefault(name, {})[dim] = tuple(before[i] for i in kept)
        return CutPlan(first.shapes, keep, first.blocks + self.blocks)

    def relative_to(self, first: CutPlan) -> CutPlan:
        """What is left of this plan, made for the dense network, where `first` has been cut already."""
        keep: dict[str, dict[int, tuple[int, ...]]] = {}
        for tensor, dims in self.keep.items():
            for dim, kept in dims.items():
                before = first.keep.get(tensor, {}).get(dim, range(self.shapes[tensor][dim]))
                if len(kept) < len(before):
                    place = {entry: i for i, entry in enumerate(before)}
                    keep.setdefault(tensor, {})[dim] = tuple(place[entry] for entry in kept)
        return CutPlan({name: first.shape(name) for name in {*self.keep, *first.keep}}, keep, self.blocks)

    def for_submodule(self, prefix: str) -> CutPlan:
        """The same plan for the child `prefix` of the network alone."""
        if not prefix:
            return self

        def inside(tensors: dict[str, Any]) -> dict[str, Any]:
            return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}

        return CutPlan(inside(self.shapes), inside(self.keep))

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor once it is cut."""
        kept = self.keep.get(tensor, {})
        return tuple(len(kept[d]) if d in kept else n for d, n in enumerate(self.shapes[tensor]))

    def with_prefix(self, prefix: str) -> CutPlan:
        """The same plan for a network that is the child `prefix` of a larger one."""
        if not prefix:
            return self
        return CutPlan(
            {f"{prefix}.{k}": v for k, v in self.shapes.items()},
            {f"{prefix}.{k}": v for k, v in self.keep.items()},
            tuple(b.with_prefix(prefix) for b in self.blocks),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain containers of strings and ints."""
        return {
            "shapes": {k: list(v) for k, v in self.shapes.items()},
            "keep": {k: {d: list(i) for d, i in dims.items()} for k, dims in self.keep.items()},
            "blocks": [
                [b.name, list(b.groups), list(b.reads), b.last_layer, b.norm, list(b.inner_layers)] for b in self.blocks
            ],
        }

    @classmethod
    def from_dict(cls, data: Any) -> CutPlan:
        """Read back what `to_dict` wrote.

        Raises:
            GDPError: it is not a plan, or an index is out of range, repeated or out of order.
        """
        try:
            plan = cls(
                {str(k): tuple(map(int, v)) for k, v in data["shapes"].items()},
                {str(k): {int(d): tuple(map(int, i)) for d, i in v.items()} for k, v in data["keep"].items()},
                tuple(_block(*fields) for fields in data["blocks"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GDPError(f"Expected a plan with `shapes` and `keep`, but reading it failed: {error!r}.") from error
        for tensor, dims in plan.keep.items():
            shape = plan.shapes.get(tensor)
            for dim, kept in dims.items():
                size = shape[dim] if shape is not None and 0 <= dim < len(shape) else 0
                if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
                    raise GDPError(f"The plan keeps entries of {tensor} along dimension {dim} that it does not have.")
        return plan


def _block(name: str, groups: list[str], reads: list[str], last: str, norm: str, silent: list[str]) -> ResidualBranch:
    names = [tuple(map(str, part)) for part in (groups, reads, silent)]
    return ResidualBranch(str(name), names[0], names[1], str(last), str(norm), names[2])


def _dense_sources(block: ResidualBranch, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Tensors of the dense network from which the constant of a block comes; it runs along their first dimension."""
    norm = [f"{block.norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    return [name for name in (*norm, f"{block.last_layer}.bias", f"{block.last_layer}.weight") if name in shapes]
