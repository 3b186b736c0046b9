"""Hold a call of an operator for its rule: arguments by name, shapes of the results, and what a rule can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from gdp.graph import Frozen
from gdp.tracing.labels import FROZEN_ID, UNKNOWN_SIZE, ChannelIds, Labels
from gdp.tracing.trace_state import UNUSED, FlopTerm, ParamRef, TraceState


@dataclass(frozen=True)
class OpCall:
    """A call of an operator; tensors among its arguments are `Labels` or `ParamRef`.

    Attributes:
        op: base name without overload and in-place mark: "conv2d".
        target: the operator itself.
        positional: arguments as the graph has them, for `rerun`.
        keyword: the same.
        args: all arguments by name, defaults included; the first is "input" where the schema says "self".
        outputs: shape of the result, or a list of the shapes of several.
        module: plain name of the module that it was called in; empty for the network itself.
        line: of the user's source, `file:line: code`.
        state: what the pass has collected so far; rules add to it.
    """

    op: str
    target: Any
    positional: tuple[Any, ...]
    keyword: dict[str, Any]
    args: dict[str, Any]
    outputs: Any
    module: str
    line: str
    state: TraceState

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    @property
    def channel_ids(self) -> ChannelIds:
        """The ids of the pass."""
        return self.state.channel_ids

    @property
    def location(self) -> str:
        """Operator and the module it was called in, for people."""
        return f"{self.op or self.target} in {self.module or 'forward'}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.outputs if isinstance(self.outputs, tuple) else self.outputs[0]

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all results."""
        return [self.outputs] if isinstance(self.outputs, tuple) else self.outputs

    @property
    def has_unknown_size(self) -> bool:
        """Whether a tensor that enters or leaves has a size that depends on data, as that of `torch.nonzero` has."""
        outputs = [self.outputs] if isinstance(self.outputs, tuple) else self.outputs
        shapes = [*outputs, *(operand.shape for operand in self.operands())]
        return any(UNKNOWN_SIZE in shape for shape in shapes)

    def operands(self) -> Iterator[Labels | ParamRef]:
        """Yield every activation and parameter among the arguments, those in lists included."""
        for value in self.args.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Labels | ParamRef):
                    yield item

    def labels(self, name: str = "input") -> Labels:
        """Return an argument as an activation.

        Args:
            name: of the argument.
        """
        value = self.args[name]
        return self.state.as_activation(value) if isinstance(value, ParamRef) else value

    def stored_param(self, name: str) -> ParamRef | None:
        """Return an argument that is a parameter or buffer, used just as it is stored; else None.

        Args:
            name: of the argument.
        """
        value = self.args.get(name)
        return value if isinstance(value, ParamRef) and value.is_direct else None

    def ids_along(self, labels: Labels, dim: int) -> Tensor:
        """Join all ids that share an index along a dimension, and return one id per index.

        Args:
            labels: an activation.
            dim: the dimension.

        Returns:
            Channel ids, shape (size along dim,).
        """
        return self.channel_ids.union_slices(labels, dim, f"meets channels that must stay in {self.location}")

    def rerun(self, function: Callable[[Any], Any]) -> Any:
        """Run the operator on other tensors, and return what it gives.

        Args:
            function: called on every leaf of the arguments; returns the tensor to run on, or the leaf as it is.
        """
        return self.target(*map_aggregate(self.positional, function), **map_aggregate(self.keyword, function))

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Note that channels must stay; those that enter an operator whose result nothing uses need not.

        Args:
            ids: channel ids of any shape.
            reason: in words.
        """
        if self.state.used:
            self.channel_ids.freeze(ids, reason)

    def freeze_all(self, reason: str) -> Any:
        """Freeze everything that enters, and return results that belong to no channel.

        Where nothing uses the results, nothing is frozen, and a result of the shape of something that enters is taken
        to lose the same channels; the dry run finds out whether it can.

        Args:
            reason: in words.
        """
        if not self.state.used:
            labels = {o.shape: o for o in reversed([*self.operands()]) if isinstance(o, Labels)}
            found = [labels.get(shape, Labels.frozen(shape)) for shape in self._shapes]
            return found[0] if isinstance(self.outputs, tuple) else found
        for operand in self.operands():
            if isinstance(operand, ParamRef):
                self.state.keep_shape(operand, reason)
            else:
                self.freeze(operand.ids, reason)
        return self.frozen_results()

    def frozen_results(self) -> Any:
        """Return labels for all results that belong to no channel."""
        frozen = [Labels.frozen(shape) for shape in self._shapes]
        return frozen[0] if isinstance(self.outputs, tuple) else frozen

    def freeze_layer(self, channels: int, reason: str) -> None:
        """Note a layer whose channels stay, and have no ids that could be frozen.

        Args:
            channels: how many it makes.
            reason: why they stay, in words.
        """
        name = self.module or self.op
        reason = reason if self.state.used else UNUSED
        if channels > 1 and not any(f.name == name for f in self.state.frozen_layers):
            self.state.frozen_layers.append(Frozen(name, channels, reason))

    def add_flops(self, coef: int, rows: Tensor | None = None, cols: Tensor | None = None) -> None:
        """Add a term to the FLOPs.

        Args:
            coef: FLOPs per pair of a row and a column.
            rows: channel id of every row, shape (rows,); default: one row that always counts.
            cols: channel id of every column, shape (cols,); default: one column that always counts.
        """
        if self.state.counting and self.state.used:
            self.state.flops.append(FlopTerm(coef, rows, cols, self.module))

    def result(self, labels: Labels | ParamRef) -> Any:
        """Return labels for the first result; further ones (indices of max pooling) belong to no channel.

        Args:
            labels: of the first result.
        """
        if isinstance(self.outputs, tuple):
            return labels
        return [labels, *(Labels.frozen(s) for s in self.outputs[1:])]

    def note_written_sizes(self, out: Any) -> None:
        """Remember the user's line if a number in it is the size of a dimension along which channels run.

        Args:
            out: what the rule returned.
        """
        numbers = {a for a in tree_leaves(list(self.args.values())) if type(a) in (int, float) and a > 1}
        for labels in tree_leaves([out, *self.operands()]):
            if isinstance(labels, Labels):
                for dim, size in enumerate(labels.shape):
                    if size in numbers and labels.varies(dim):
                        self.state.size_lines.setdefault(self.line, []).append(
                            labels.ids.flatten().clamp_min(FROZEN_ID)
                        )
