"""Whole blocks (GDP, arXiv 2109.02220, figure 2): which residual branches can go, and what is left in their place.

When no channel that the last conv of a residual branch reads is open, the branch adds a constant per channel: that
conv's bias, through the batch norm behind it. The constant stays; everything else of the branch goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from gdp.graph import ChannelGraph, ResidualBranch
from gdp.utils import CONV, NORM, plain_name, under_plain_names

_LAST_LAYER_OPS = {"conv1d", "conv2d", "conv3d", "linear"}
# a constant stays one behind these
_CONSTANT_PRESERVING_OPS = {"batch_norm", "mul", "permute", "dropout", "clone", "contiguous", "transpose"}
_PASSING = (NORM, nn.GroupNorm, nn.LayerNorm, nn.PReLU)


def find_residual_branches(
    program: ExportedProgram, graph: ChannelGraph, model: nn.Module
) -> tuple[ResidualBranch, ...]:
    """The residual branches of a network that consist of channel groups alone, innermost first, none within another."""
    search = _BranchSearch(program, graph, model)
    found = [b for node in program.graph.nodes if _op(node) == "add" for b in search.ending_at(node)]
    chosen: list[ResidualBranch] = []
    for block in sorted(found, key=lambda b: len(b.inner_layers)):
        layers = {block.last_layer, *block.inner_layers}
        if not any(layers & {b.last_layer, *b.inner_layers} for b in chosen):
            chosen.append(block)
    order = {g.name: i for i, g in enumerate(graph.groups)}
    times = Counter(block.name for block in chosen)
    named = (replace(b, name=f"{b.name} ({b.last_layer})") if times[b.name] > 1 else b for b in chosen)
    return tuple(sorted(named, key=lambda b: order[b.reads[0]]))


def _op(node: Node) -> str:
    return getattr(node.target, "_opname", "").removesuffix("_") if node.op == "call_function" else ""


class _BranchSearch:
    """One exported graph, and which layers, groups and nodes belong together in it."""

    def __init__(self, program: ExportedProgram, graph: ChannelGraph, model: nn.Module) -> None:
        signature = program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
        self.tensor = {n: plain_name(stored[n.name]) for n in inputs if n.name in stored}
        self.outputs = next(n for n in program.graph.nodes if n.op == "output")
        self.nodes = [n for n in program.graph.nodes if n.op == "call_function"]
        self.graph = graph
        modules = under_plain_names(model.named_modules())
        self.layers = {name: m for name, m in modules.items() if not any(True for _ in m.children())}
        self.groups_on: dict[tuple[str, int], set[str]] = {}
        covered: dict[tuple[str, int], int] = {}
        for group in graph.groups:
            for axis in group.tensors:
                key = (axis.tensor, axis.dim)
                self.groups_on.setdefault(key, set()).add(group.name)
                covered[key] = covered.get(key, 0) + axis.index.numel()
        self.used = self._live(None)
        self.whole = {key for key, n in covered.items() if n == graph.shapes[key[0]][key[1]]}

    def ending_at(self, add: Node) -> Iterator[ResidualBranch]:
        """The branch that ends in this addition, if there is one beside a way around it."""
        terms = list(dict.fromkeys(a for a in add.args if isinstance(a, Node)))
        for branch, around in (terms, terms[::-1]) if len(terms) == 2 else ():
            last, norm = self._last_layer(branch)
            block = None if last is None else self._branch(last, norm, around)
            if block is not None:
                yield block
                return

    def _last_layer(self, node: Node) -> tuple[Node | None, str]:
        """The conv or linear whose output, scaled and shifted at most, is this node, and the norm right behind it."""
        norm = ""
        while len(node.users) == 1 and _op(node) in _CONSTANT_PRESERVING_OPS:
            norm = self._layer(node) if _op(node) == "batch_norm" else ""
            norm = norm if getattr(self.layers.get(norm), "running_mean", None) is not None else ""
            data = [a for a in node.args if isinstance(a, Node) and a not in self.tensor]
            if len(data) != 1:
                return None, ""
            node = data[0]
        found = len(node.users) == 1 and _op(node) in _LAST_LAYER_OPS and node.args[1] in self.tensor
        return (node, norm) if found else (None, "")

    def _layer(self, node: Node) -> str:
        """The leaf module that called an operator; empty for operators in a forward of containers."""
        stack = node.meta.get("nn_module_stack") or {}
        path = plain_name(next((p for p, _ in reversed(stack.values()) if p), ""))
        return path if path in self.layers else ""

    def _branch(self, last: Node, norm: str, around: Node) -> ResidualBranch | None:
        live = self._live(last)
        dead = [n for n in self.nodes if n in self.used and n not in live]
        if not dead or not self._sees_an_input(around, last):
            return None
        weight = self.tensor[last.args[1]]
        tensors = {self.tensor[a] for n in dead for a in n.all_input_nodes if a in self.tensor}
        layers = {self._layer(n) for n in dead if any(a in self.tensor for a in n.all_input_nodes)}
        layers |= {self._layer(n) for n in dead if _is_squeeze(self.layers.get(self._layer(n)))}
        inside = self.groups_on.get((weight, 1), set()).union(*(self.groups_on.get((t, 0), set()) for t in tensors))
        reads = self.groups_on.get((weight, 1), set())
        only = all(
            axis.tensor in tensors or (axis.tensor, axis.dim) == (weight, 1)
            for name in inside
            for axis in self.graph[name].tensors
        )
        head = self._layer(last)
        convs = [name for name in layers if isinstance(self.layers.get(name), CONV | nn.Linear)]
        once = all(sum(self._layer(n) == name for n in self.nodes) == 1 for name in (head, norm) if name)
        if not (
            head
            and once
            and only
            and convs
            and (weight, 1) in self.whole
            and self._is_replaceable(layers, tensors, dead)
        ):
            return None
        name = _common([head, *layers])
        order = [g.name for g in self.graph.groups]
        pick = partial(sorted, key=order.index)
        return ResidualBranch(name, tuple(pick(inside)), tuple(pick(reads)), head, norm, tuple(sorted(layers)))

    def _is_replaceable(self, layers: set[str], tensors: set[str], dead: list[Node]) -> bool:
        """Whether all tensors belong to known layers, and these layers are called in the branch alone."""
        found = [self.layers.get(name) for name in layers]
        known = all(isinstance(m, (CONV, nn.Linear, *_PASSING)) or _is_squeeze(m) for m in found)
        known = known and not any(getattr(m, "transposed", False) for m in found)
        owned = all(t.rpartition(".")[0] in layers for t in tensors)
        alone = all(n in dead for n in self.nodes if self._layer(n) in layers)
        return known and owned and alone

    def _sees_an_input(self, node: Node, last: Node) -> bool:
        """Whether a node depends on an input of the network in another way than through `last`."""
        sources = self._live(last, node)
        return any(n.op == "placeholder" and n not in self.tensor for n in sources)

    def _live(self, last: Node | None, start: Node | None = None) -> set[Node]:
        """Nodes that the outputs, or another node, depend on if the input of `last` does not matter."""
        stack = [start or self.outputs]
        live = set(stack)
        while stack:
            node = stack.pop()
            for source in node.all_input_nodes if node is not last else ():
                if source not in live:
                    live.add(source)
                    stack.append(source)
        return live


def _is_squeeze(module: nn.Module | None) -> bool:
    """Pooling to one position, as squeeze-excite does; behind it a constant is the same at any size."""
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _common(names: list[str]) -> str:
    """The module that holds all of these."""
    parts = [name.split(".")[:-1] for name in names]
    shared = [level[0] for level in zip(*parts, strict=False) if len(set(level)) == 1]
    return ".".join(shared) or names[0]
