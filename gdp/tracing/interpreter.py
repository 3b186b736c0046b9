"""Run an exported graph on labels instead of values: every operator is replaced by its rule."""

from __future__ import annotations

import operator
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node
from torch.fx.operator_schemas import normalize_function
from torch.utils._pytree import tree_leaves

from gdp.tracing.labels import UNKNOWN_SIZE, Labels
from gdp.tracing.op_call import OpCall
from gdp.tracing.rules import rule_for
from gdp.tracing.trace_state import ParamRef, TraceState
from gdp.utils import is_user_file, plain_name


class LabelInterpreter(Interpreter):
    """Run an exported graph on labels: activations are `Labels`, parameters and buffers are `ParamRef`.

    Args:
        program: the network, exported.
        state: what earlier graphs of the same network have collected; parameters share their channel ids.
        names: plain name of every parameter and buffer -> the name that it is known by, if it has several.
        unused: calls of operators whose results nothing uses.
    """

    def __init__(
        self, program: ExportedProgram, state: TraceState, names: dict[str, str], unused: frozenset[Node]
    ) -> None:
        super().__init__(program.graph_module)
        signature = program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._tensor_of = {node: names[plain_name(name)] for node, name in stored.items()}
        self._state = state
        self._unused = unused

    def run_node(self, n: Node) -> Any:
        """Remember the node for the methods below, and run it.

        Args:
            n: a node of the graph.
        """
        self._node, self._state.used = n, n not in self._unused
        return super().run_node(n)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return what enters the graph: a reference to a parameter, or frozen labels for an input of the network.

        Args:
            target: name of the placeholder.
            args: not used.
            kwargs: not used.
        """
        value = self._node.meta.get("val")
        if self._node.name in self._tensor_of:
            name = self._tensor_of[self._node.name]
            return ParamRef(name, self._state.shapes[name])
        return Labels.frozen(tuple(value.shape)) if isinstance(value, Tensor) else value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return None for the body of a higher-order operator, which is not looked into.

        Args:
            target: name of the body.
            args: not used.
            kwargs: not used.
        """
        return None

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Freeze what reaches the network's output.

        Args:
            target: not used.
            args: the outputs, nested containers of `Labels` and `ParamRef`.
            kwargs: not used.
        """
        for value in tree_leaves(args):
            if isinstance(value, Labels):
                self._state.channel_ids.freeze(value.ids, "reaches the network's output")
            elif isinstance(value, ParamRef):
                self._state.keep_shape(value, "reaches the network's output")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply the rule of an operator; one that has no rule freezes what it meets.

        Args:
            target: the operator.
            args: its positional arguments; tensors are `Labels` or `ParamRef`.
            kwargs: its arguments by name, likewise.
        """
        if target is operator.getitem:
            return args[0][args[1]]
        call = self._op_call(target, args, kwargs)
        if call.op.startswith("_assert") or (call.op and call.outputs == [] and not any(call.operands())):
            return None
        if call.has_unknown_size:
            return call.freeze_all(f"{call.location} meets a size that depends on data")
        rule = rule_for(call.op, target) if call.op else None
        if rule is None:
            return call.freeze_all(f"{call.location} is not known to gdp")
        out = rule.apply(call)
        if rule.notes_sizes:
            call.note_written_sizes(out)
        return out

    def _op_call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpCall:
        """Return the call with its arguments by name; those of higher-order operators are numbered.

        Args:
            target: the operator.
            args: its positional arguments.
            kwargs: its arguments by name.
        """
        name = target.name() if isinstance(target, torch._ops.OpOverload) else ""  # "aten::add_.Tensor"
        normal = normalize_function(target, args, kwargs, normalize_to_only_use_kwargs=True) if name else None
        leaves = {f"arg{i}": value for i, value in enumerate(tree_leaves((args, kwargs)))}
        return OpCall(
            op=name.partition("::")[2].partition(".")[0].removesuffix("_"),
            target=target,
            positional=args,
            keyword=kwargs,
            args=leaves if normal is None else dict(normal.kwargs),
            outputs=_shapes(self._node.meta.get("val")),
            module=module_of(self._node),
            line=_line(self._node),
            state=self._state,
        )


def module_of(node: Node) -> str:
    """Return the plain name of the module that called an operator; empty for the network itself.

    Args:
        node: of an exported graph.
    """
    stack = node.meta.get("nn_module_stack") or {}
    path = next((p for p, _ in reversed(stack.values()) if p), "")
    return plain_name(path.removesuffix(".parametrizations.weight.0").removesuffix(".parametrizations.weight"))


def _shapes(val: Any) -> Any:
    """Return the shape of a tensor result, or the shapes of several; sizes that depend on data are `UNKNOWN_SIZE`.

    Args:
        val: what torch.export noted as the result: a fake tensor, or a list of them.
    """
    if isinstance(val, Tensor):
        return tuple(size if isinstance(size, int) else UNKNOWN_SIZE for size in val.shape)
    return [_shapes(v) for v in val if isinstance(v, Tensor)] if isinstance(val, list | tuple) else []


def _line(node: Node) -> str:
    """Return the innermost line of the user's source that led to an operator, as torch.export noted it.

    Args:
        node: of an exported graph.

    Returns:
        `file:line: code`; empty where no line is known.
    """
    entries = re.findall(r'File "(.+?)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    return next((f"{Path(f).name}:{n}: {code}" for f, n, code in reversed(entries) if is_user_file(f)), "")
