"""Find the residual branches that can be removed as a whole (GDP, arXiv 2109.02220, figure 2).

When no channel that the last conv of a residual branch reads is open, the branch adds a constant per channel: that
conv's bias, passed through the batch norm behind it. Removing the branch leaves this constant in its place.
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
# behind these, a constant per channel is still a constant per channel
_CONSTANT_PRESERVING_OPS = {"batch_norm", "mul", "permute", "dropout", "clone", "contiguous", "transpose"}
# layers that may stand in a branch beside convs and linears, since nn.Identity can take their place
_REPLACEABLE = (NORM, nn.GroupNorm, nn.LayerNorm, nn.PReLU)


def find_residual_branches(
    program: ExportedProgram, graph: ChannelGraph, model: nn.Module
) -> tuple[ResidualBranch, ...]:
    """Return the residual branches of a network that consist of channel groups alone.

    Where one lies within another, the inner one is returned.

    Args:
        program: the network, exported in eval mode.
        graph: its channel groups.
        model: the network.

    Returns:
        The branches, in the order of the first group that their last layer reads.
    """
    search = _BranchSearch(program, graph, model)
    found = [b for node in program.graph.nodes if _op(node) == "add" for b in search.ending_at(node)]

    # the smaller ones first, so that none lies within another
    chosen: list[ResidualBranch] = []
    for branch in sorted(found, key=lambda b: len(b.inner_layers)):
        layers = {branch.last_layer, *branch.inner_layers}
        if not any(layers & {b.last_layer, *b.inner_layers} for b in chosen):
            chosen.append(branch)

    # several branches in one module are told apart by their last layers
    order = {g.name: i for i, g in enumerate(graph.groups)}
    times = Counter(branch.name for branch in chosen)
    named = (replace(b, name=f"{b.name} ({b.last_layer})") if times[b.name] > 1 else b for b in chosen)
    return tuple(sorted(named, key=lambda b: order[b.reads[0]]))


def _op(node: Node) -> str:
    """Return the base name of the operator of a node, without overload and in-place mark; empty for other nodes.

    Args:
        node: of an exported graph.
    """
    return getattr(node.target, "_opname", "").removesuffix("_") if node.op == "call_function" else ""


class _BranchSearch:
    """Hold an exported graph, and which layers, groups and nodes belong together in it.

    Args:
        program: the network, exported in eval mode.
        graph: its channel groups.
        model: the network.

    Attributes:
        tensor: node of a parameter or buffer -> its plain name.
        outputs: the node of the network's outputs.
        nodes: all calls of operators.
        graph: as given.
        layers: modules without children, by plain names.
        groups_on: (tensor, dimension) -> names of the groups that it carries.
        used: nodes that the outputs depend on.
        whole: (tensor, dimension) of which every index belongs to a group.
    """

    def __init__(self, program: ExportedProgram, graph: ChannelGraph, model: nn.Module) -> None:
        # the graph's nodes
        signature = program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
        self.tensor = {n: plain_name(stored[n.name]) for n in inputs if n.name in stored}
        self.outputs = next(n for n in program.graph.nodes if n.op == "output")
        self.nodes = [n for n in program.graph.nodes if n.op == "call_function"]
        self.graph = graph

        # layers, and the groups on their tensors
        modules = under_plain_names(model, model.named_modules())
        self.layers = {name: m for name, m in modules.items() if not any(True for _ in m.children())}
        self.groups_on: dict[tuple[str, int], set[str]] = {}
        covered: dict[tuple[str, int], int] = {}
        for group in graph.groups:
            for axis in group.tensors:
                key = (axis.tensor, axis.dim)
                self.groups_on.setdefault(key, set()).add(group.name)
                covered[key] = covered.get(key, 0) + axis.index.numel()
        self.used = self._needed(None)
        self.whole = {key for key, n in covered.items() if n == graph.shapes[key[0]][key[1]]}

    def ending_at(self, add: Node) -> Iterator[ResidualBranch]:
        """Yield the branch that ends in an addition, if there is one, and a way around it.

        Args:
            add: node of the addition.
        """
        terms = list(dict.fromkeys(a for a in add.args if isinstance(a, Node)))
        for end, around in (terms, terms[::-1]) if len(terms) == 2 else ():
            last, norm = self._last_layer(end)
            branch = None if last is None else self._branch(last, norm, around)
            if branch is not None:
                yield branch
                return

    def _last_layer(self, node: Node) -> tuple[Node | None, str]:
        """Return the last conv or linear of a branch, and the name of the batch norm right behind it.

        Args:
            node: the end of the branch; behind the last layer it may at most be scaled, shifted and permuted.

        Returns:
            The node of the layer, None if there is none; the name is empty if no batch norm with running statistics is
            right behind it.
        """
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
        """Return the name of the module without children that called an operator; empty where another one did.

        Args:
            node: a call of an operator.
        """
        stack = node.meta.get("nn_module_stack") or {}
        path = plain_name(next((p for p, _ in reversed(stack.values()) if p), ""))
        return path if path in self.layers else ""

    def _branch(self, last: Node, norm: str, around: Node) -> ResidualBranch | None:
        """Return the branch before a last layer, or None if it can't be removed as a whole.

        Args:
            last: node of the last layer.
            norm: name of the batch norm behind it, or empty.
            around: the other term of the addition.
        """
        # nodes that matter only through the input of the last layer
        needed = self._needed(last)
        nodes = [n for n in self.nodes if n in self.used and n not in needed]
        if not nodes or not self._sees_an_input(around, last):
            return None

        # their tensors, layers and groups
        weight = self.tensor[last.args[1]]
        tensors = {self.tensor[a] for n in nodes for a in n.all_input_nodes if a in self.tensor}
        layers = {self._layer(n) for n in nodes if any(a in self.tensor for a in n.all_input_nodes)}
        layers |= {self._layer(n) for n in nodes if _is_squeeze(self.layers.get(self._layer(n)))}
        inside = self.groups_on.get((weight, 1), set()).union(*(self.groups_on.get((t, 0), set()) for t in tensors))
        reads = self.groups_on.get((weight, 1), set())

        # no group may reach beyond the branch, and the last layer and its norm are called once
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
            and self._is_replaceable(layers, tensors, nodes)
        ):
            return None

        # groups in the order of the network
        name = _common_module([head, *layers])
        order = [g.name for g in self.graph.groups]
        pick = partial(sorted, key=order.index)
        return ResidualBranch(name, tuple(pick(inside)), tuple(pick(reads)), head, norm, tuple(sorted(layers)))

    def _is_replaceable(self, layers: set[str], tensors: set[str], nodes: list[Node]) -> bool:
        """Return whether all tensors belong to layers of known types, which are called in the branch alone.

        Args:
            layers: names of the layers of the branch, the last one left out.
            tensors: plain names of the parameters and buffers that it computes with.
            nodes: calls of operators in the branch.
        """
        found = [self.layers.get(name) for name in layers]
        known = all(isinstance(m, (CONV, nn.Linear, *_REPLACEABLE)) or _is_squeeze(m) for m in found)
        known = known and not any(getattr(m, "transposed", False) for m in found)
        owned = all(t.rpartition(".")[0] in layers for t in tensors)
        alone = all(n in nodes for n in self.nodes if self._layer(n) in layers)
        return known and owned and alone

    def _sees_an_input(self, node: Node, last: Node) -> bool:
        """Return whether a node depends on an input of the network in another way than through a last layer.

        Args:
            node: of the graph.
            last: node of the last layer.
        """
        sources = self._needed(last, node)
        return any(n.op == "placeholder" and n not in self.tensor for n in sources)

    def _needed(self, last: Node | None, start: Node | None = None) -> set[Node]:
        """Return the nodes that a node depends on if the inputs of a last layer do not matter.

        Args:
            last: node of the last layer; None: all inputs matter.
            start: the node; default: the outputs of the network.
        """
        stack = [start or self.outputs]
        needed = set(stack)
        while stack:
            node = stack.pop()
            for source in node.all_input_nodes if node is not last else ():
                if source not in needed:
                    needed.add(source)
                    stack.append(source)
        return needed


def _is_squeeze(module: nn.Module | None) -> bool:
    """Return whether a module pools to one position (squeeze-excite), so that its output is as large for any input.

    Args:
        module: of the network; None is no such module.
    """
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _common_module(names: list[str]) -> str:
    """Return the name of the innermost module that holds some layers; that of the first layer if there is none.

    Args:
        names: of the layers.
    """
    parts = [name.split(".")[:-1] for name in names]
    shared = [level[0] for level in zip(*parts, strict=False) if len(set(level)) == 1]
    return ".".join(shared) or names[0]
