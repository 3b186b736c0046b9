"""Find the operators of an exported graph whose results nothing uses, as torch.jit does before fvcore counts.

Such operators still run: their weights have to follow a cut. But they cost no FLOPs, and what they do with values
freezes nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves


def unused_nodes(graph: Graph) -> frozenset[Node]:
    """Return the calls of operators that neither an output nor a tensor of the network depends on.

    One pass from the outputs to the inputs, as in torch.jit's elimination of dead code: an operator that writes in
    place is used if what it writes to is used later on, under whichever name.

    Args:
        graph: exported.
    """
    memory = _memory(graph)
    used: set[Node] = set()
    read_later = {node for node in graph.nodes if node.op == "placeholder"}  # inputs and tensors outlive forward
    for node in reversed(graph.nodes):
        if node.op == "output" or node in used or any(memory[n] & read_later for n in _written(node)):
            used.update([node, *node.all_input_nodes])
            read_later.update(*(memory[source] for source in node.all_input_nodes))
    return frozenset(node for node in graph.nodes if node.op == "call_function" and node not in used)


def uses_parameters(program: ExportedProgram, nodes: frozenset[Node]) -> bool:
    """Return whether some operators compute with parameters or buffers.

    Args:
        program: exported.
        nodes: of its graph.
    """
    signature = program.graph_signature
    stored = {*signature.inputs_to_parameters, *signature.inputs_to_buffers}
    return any(source.name in stored for node in nodes for source in node.all_input_nodes)


def _memory(graph: Graph) -> dict[Node, frozenset[Node]]:
    """Return for every node the nodes that have made the memory which its result lies in: views share it.

    Args:
        graph: exported.
    """
    memory: dict[Node, frozenset[Node]] = {}
    for node in graph.nodes:
        viewed = node.all_input_nodes if node.target is operator.getitem else _viewed(node)
        memory[node] = frozenset().union(*(memory[n] for n in viewed)) if viewed else frozenset([node])
    return memory


def _viewed(node: Node) -> list[Node]:
    """Return the arguments of which an operator returns views, or themselves.

    Args:
        node: of an exported graph.
    """
    returns = node.target._schema.returns if isinstance(node.target, OpOverload) else ()
    names: set[str] = set().union(*(r.alias_info.before_set for r in returns if r.alias_info is not None))
    return [n for n, alias in _marked(node) if alias.before_set & names or "*" in alias.after_set]  # "*": in a list


def _written(node: Node) -> list[Node]:
    """Return the arguments that an operator writes to; all of one whose body is not looked into, if the body writes.

    Args:
        node: of an exported graph.
    """
    if isinstance(node.target, OpOverload):
        return [n for n, alias in _marked(node) if alias.is_write]
    inner = [a for a in node.all_input_nodes if a.op == "get_attr"]
    bodies = [getattr(node.graph.owning_module, str(a.target), None) for a in inner]
    writes = any(_written(n) for body in bodies if isinstance(body, GraphModule) for n in body.graph.nodes)
    return [a for a in node.all_input_nodes if a not in inner] if writes else []


def _marked(node: Node) -> Iterator[tuple[Node, Any]]:
    """Yield the arguments of an operator whose memory its schema speaks of, and what it says.

    Args:
        node: of an exported graph.
    """
    schema = node.target._schema if isinstance(node.target, OpOverload) else None
    for place, argument in enumerate(schema.arguments if schema is not None else ()):
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        if argument.alias_info is not None:
            yield from ((n, argument.alias_info) for n in tree_leaves(value) if isinstance(n, Node))
