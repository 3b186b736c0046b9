"""Define CutPlan: which channels of a network are removed, as plain ints that a file can hold."""

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
    """Entries of every tensor of a network that stay in a cut.

    Attributes:
        shapes: shape of every parameter and buffer before the cut, by plain names.
        keep: for every tensor that gets smaller, the kept indices along each dimension that is cut, in rising order.
        blocks: residual branches that are removed as a whole.
    """

    shapes: dict[str, tuple[int, ...]]
    keep: dict[str, dict[int, tuple[int, ...]]]
    blocks: tuple[ResidualBranch, ...] = ()

    @classmethod
    def of(cls, graph: ChannelGraph, closed: Mapping[str, Sequence[int]]) -> CutPlan:
        """Return the plan of a cut that removes the closed channels.

        A residual branch of the graph is removed as a whole if all channels that its last layer reads are closed.

        Args:
            graph: of the network.
            closed: indices of the closed channels within each group, by the group's name.

        Raises:
            GDPError: no such group or channel, or a group would lose its last channel.
        """
        # residual branches that are removed as a whole; nothing inside of them is cut
        all_closed = {name for name, indices in closed.items() if len(set(indices)) == graph[name].size}
        blocks = tuple(branch for branch in graph.blocks if all_closed.issuperset(branch.reads))
        inside = {name for branch in blocks for name in branch.groups}

        # the entries that are removed from every tensor along every dimension
        removed: dict[tuple[str, int], Tensor] = {}
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
                mask = removed.setdefault(
                    (axis.tensor, axis.dim), torch.zeros(graph.shapes[axis.tensor][axis.dim], dtype=torch.bool)
                )
                mask[axis.index[index].flatten()] = True

        # the entries that stay
        keep: dict[str, dict[int, tuple[int, ...]]] = {}
        for (tensor, dim), mask in removed.items():
            keep.setdefault(tensor, {})[dim] = tuple(torch.nonzero(~mask).flatten().tolist())
        return cls(dict(graph.shapes), keep, blocks)

    def compose(self, first: CutPlan) -> CutPlan:
        """Return one plan for the dense network that does what two cuts, one after the other, do.

        Tensors that were added or replaced in between are dense ones for the second cut alone.

        Args:
            first: the plan of the first cut; this plan was made for the network that it left.
        """
        sources = {f"{b.last_layer}.bias": _dense_sources(b, first.shapes) for b in first.blocks}
        new = {
            name: shape
            for name, shape in self.shapes.items()
            if name not in sources and (name not in first.shapes or first.shape(name) != shape)
        }
        shapes = first.shapes | new
        keep = {tensor: dict(dims) for tensor, dims in first.keep.items() if tensor not in new}
        for tensor, dims in self.keep.items():
            # the constant that a removed branch left was computed from other tensors of the dense network
            for name in sources.get(tensor, [tensor]):
                for dim, kept in dims.items():
                    before = keep.get(name, {}).get(dim, range(shapes[name][dim]))
                    keep.setdefault(name, {})[dim] = tuple(before[i] for i in kept)
        return CutPlan(shapes, keep, first.blocks + self.blocks)

    def relative_to(self, first: CutPlan) -> CutPlan:
        """Return what remains to be cut by this plan of the dense network once another cut has been made.

        Args:
            first: the plan of the cut that has been made; it keeps every entry that this plan keeps.
        """
        keep: dict[str, dict[int, tuple[int, ...]]] = {}
        for tensor, dims in self.keep.items():
            for dim, kept in dims.items():
                before = first.keep.get(tensor, {}).get(dim, range(self.shapes[tensor][dim]))
                if len(kept) < len(before):
                    new_index = {entry: i for i, entry in enumerate(before)}
                    keep.setdefault(tensor, {})[dim] = tuple(new_index[entry] for entry in kept)
        return CutPlan({name: first.shape(name) for name in {*self.keep, *first.keep}}, keep, self.blocks)

    def for_submodule(self, prefix: str) -> CutPlan:
        """Return the part of this plan that lies in a submodule, for the submodule alone.

        Args:
            prefix: plain name of the submodule; empty for the network itself.
        """
        if not prefix:
            return self

        def inside(tensors: dict[str, Any]) -> dict[str, Any]:
            """Return the entries whose names lie in the submodule, under the names they have there."""
            return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}

        return CutPlan(inside(self.shapes), inside(self.keep))

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of a tensor after the cut.

        Args:
            tensor: plain name of a parameter or buffer.
        """
        kept = self.keep.get(tensor, {})
        return tuple(len(kept[d]) if d in kept else n for d, n in enumerate(self.shapes[tensor]))

    def with_prefix(self, prefix: str) -> CutPlan:
        """Return the same plan for a larger network that has this one as a submodule.

        Args:
            prefix: plain name of the submodule; empty if it is the network itself.
        """
        if not prefix:
            return self
        return CutPlan(
            {f"{prefix}.{k}": v for k, v in self.shapes.items()},
            {f"{prefix}.{k}": v for k, v in self.keep.items()},
            tuple(b.with_prefix(prefix) for b in self.blocks),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain containers of strings and ints."""
        return {
            "shapes": {k: list(v) for k, v in self.shapes.items()},
            "keep": {k: {d: list(i) for d, i in dims.items()} for k, dims in self.keep.items()},
            "blocks": [
                [b.name, list(b.groups), list(b.reads), b.last_layer, b.norm, list(b.inner_layers)] for b in self.blocks
            ],
        }

    @classmethod
    def from_dict(cls, data: Any) -> CutPlan:
        """Return the plan that `to_dict` wrote.

        Args:
            data: what `to_dict` returned; anything else is refused.

        Raises:
            GDPError: it is not a plan, or an index is out of range, repeated or out of order.
        """
        # dicts, lists and ints in their places
        try:
            plan = cls(
                {str(k): tuple(map(int, v)) for k, v in data["shapes"].items()},
                {str(k): {int(d): tuple(map(int, i)) for d, i in v.items()} for k, v in data["keep"].items()},
                tuple(_branch(*fields) for fields in data["blocks"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GDPError(f"Expected a plan with `shapes` and `keep`, but reading it failed: {error!r}.") from error

        # indices in range, each once, in rising order
        for tensor, dims in plan.keep.items():
            shape = plan.shapes.get(tensor)
            for dim, kept in dims.items():
                size = shape[dim] if shape is not None and 0 <= dim < len(shape) else 0
                if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
                    raise GDPError(f"The plan keeps entries of {tensor} along dimension {dim} that it does not have.")
        return plan


def _branch(
    name: str, groups: list[str], reads: list[str], last_layer: str, norm: str, inner_layers: list[str]
) -> ResidualBranch:
    """Return a residual branch from the list that `to_dict` wrote: the attributes of the record, in order."""
    names = [tuple(map(str, part)) for part in (groups, reads, inner_layers)]
    return ResidualBranch(str(name), names[0], names[1], str(last_layer), str(norm), names[2])


def _dense_sources(branch: ResidualBranch, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Return the tensors of the dense network that the constant of a removed branch is computed from.

    The channels of the constant lie along the first dimension of each.

    Args:
        branch: a residual branch that was removed as a whole.
        shapes: of the tensors of the dense network, by plain names.
    """
    norm = [f"{branch.norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    return [name for name in (*norm, f"{branch.last_layer}.bias", f"{branch.last_layer}.weight") if name in shapes]
