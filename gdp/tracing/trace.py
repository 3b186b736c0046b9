"""trace(): run a network's own operations on labels and group the channels that are one and the same unit."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError
from gdp.graph import ChannelGraph
from gdp.tracing.export import exported
from gdp.tracing.grouping import group_channels
from gdp.tracing.labels import Labels
from gdp.tracing.op_call import OpCall, ParamRef, TraceState
from gdp.tracing.residual_branches import find_residual_branches
from gdp.tracing.rules import elementwise, reshaping
from gdp.tracing.rules.table import rule_for
from gdp.tracing.training_mode import differs_in_training
from gdp.utils import as_input_tuple, check_ungated, double_batch, inputs_like_weights, is_user_file, plain_name


def trace(
    model: nn.Module, example_inputs: Any, ignore: Sequence[str | type] = (), blocks: bool = False
) -> ChannelGraph:
    """Find the channel groups of a network by running its own operations on labels.

    Args:
        model: any `nn.Module` that torch.export can follow; it is left as it was, mode and RNG included.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them. FLOPs are counted for these.
        ignore: layers whose inputs and outputs keep their sizes: module names, globs over them, or module types.
        blocks: find the residual branches that may go as a whole, too.

    Raises:
        GDPError: the network can't be exported, or a pattern of `ignore` matches no module.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = trace(net, torch.zeros(1, 3, 8, 8))
    >>> [(g.name, g.size, g.readers) for g in graph.groups]
    [('0', 8, ('2',))]
    >>> [(f.name, f.channels, f.reason) for f in graph.frozen]
    [('2', 4, "reaches the network's output")]
    """
    if not isinstance(model, nn.Module):
        raise GDPError(f"Expected a torch.nn.Module to trace, but got {type(model).__name__}.")
    check_ungated(model)
    check_ignore(ignore)
    inputs = inputs_like_weights(model, as_input_tuple(example_inputs))
    ignored = _ignored_tensors(model, ignore)
    tensors = dict(_tensors(model))
    canonical: dict[int, str] = {}
    names = {name: canonical.setdefault(id(t), name) for name, t in tensors.items()}
    programs = [exported(model, inputs)]
    if differs := differs_in_training(model, inputs):
        programs += _exported_for_training(model, inputs)
    private_weights = frozenset() if differs and len(programs) == 1 else _used_by_their_layers(programs, names)

    def graph(flipped: frozenset[str] = frozenset()) -> tuple[TraceState, ChannelGraph]:
        walk = TraceState(
            {name: tuple(t.shape) for name, t in tensors.items()}, settable_groups=_settable(model, names)
        )
        walk.flipped_grouping = flipped
        for program in programs:
            _run(walk, program, names)
            walk.counting = False
        for name, pattern in ignored.items():
            for (tensor, _), vector in walk.axes.items():
                if tensor == names[name]:
                    walk.channel_ids.freeze(vector, f"ignored by {pattern!r}")
        walk.finish()
        return walk, group_channels(walk, inputs)

    walk, found = graph()
    stuck = frozenset(name for name in walk.two_way_grouping if not found.carries(name))
    if stuck:  # grouped convs that can't lose whole groups may lose channels in step, and the other way round
        found = max((found, graph(stuck)[1]), key=lambda g: sum(group.size for group in g.groups))
    found = replace(found, private_weights=private_weights)
    return found.with_blocks(find_residual_branches(programs[0], found, model)) if blocks else found


def _settable(model: nn.Module, names: dict[str, str]) -> frozenset[str]:
    """Weights of conv modules, whose attribute `groups` can be changed along with them."""
    convs = (name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.modules.conv._ConvNd))
    return frozenset(names[f"{name}.weight" if name else "weight"] for name in convs if f"{name}.weight" in names)


def check_ignore(ignore: object) -> None:
    """Refuse what is no list of patterns.

    Raises:
        GDPError: it is none.
    """
    if not isinstance(ignore, list | tuple) or not all(isinstance(p, str | type) for p in ignore):
        raise GDPError(f"Expected `ignore` to be a list of names, globs or module types, but got {ignore!r}.")


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _exported_for_training(model: nn.Module, inputs: tuple[Any, ...]) -> list[ExportedProgram]:
    """The network as it trains. Where that can't be exported, layers of train mode keep their sizes.

    Preflight tries them on the cut network then, and leaves alone what they can't follow.
    """
    for example in (inputs, double_batch(inputs)):
        try:
            return [exported(model, example, training=True)]
        except GDPError:
            continue
    return []


def _used_by_their_layers(programs: Sequence[ExportedProgram], names: dict[str, str]) -> frozenset[str]:
    """Parameters that no operator uses but those of the module which holds them."""
    used: dict[str, bool] = {}
    for program in programs:
        for node in program.graph.nodes:
            name = program.graph_signature.inputs_to_parameters.get(node.name) if node.op == "placeholder" else None
            if name is not None:
                alone = all(_module(user) == name.rpartition(".")[0] for user in node.users)
                used[names[name]] = used.get(names[name], True) and alone and names[name] == name
    return frozenset(name for name, alone in used.items() if alone)


def _run(walk: TraceState, program: ExportedProgram, names: dict[str, str]) -> None:
    """Walk one graph; labels of parameters met in an earlier graph are shared."""
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    env: dict[Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            if node.name in stored:
                name = names[stored[node.name]]
                env[node] = ParamRef(name, walk.shapes[name])
            else:
                env[node] = Labels.frozen(tuple(value.shape)) if isinstance(value, Tensor) else value
        elif node.op == "output":
            for out in tree_leaves(node.args):
                value = env.get(out) if isinstance(out, Node) else None
                if isinstance(value, Labels):
                    walk.channel_ids.freeze(value.ids, "reaches the network's output")
                elif isinstance(value, ParamRef):
                    walk.keep_shape(value, "reaches the network's output")
        elif node.op == "call_function":
            env[node] = _apply(walk, node, env)
        else:  # the body of a higher-order operator, which is not known
            env[node] = None


def _apply(walk: TraceState, node: Node, env: dict[Node, Any]) -> Any:
    def value(arg: Any) -> Any:
        if isinstance(arg, Node):
            return env[arg]
        return type(arg)(value(a) for a in arg) if isinstance(arg, list | tuple) else arg

    if node.target is operator.getitem:
        return value(node.args[0])[node.args[1]]
    shapes = _shapes(node.meta.get("val"))
    if not isinstance(node.target, torch._ops.OpOverload):
        args = {f"arg{i}": value(a) for i, a in enumerate(tree_leaves((node.args, node.kwargs)))}
        call = OpCall("", args, shapes, _module(node), _line(node), node.target, walk)
        return call.freeze_all(f"{call.location} is not known to gdp")
    schema = node.target._schema
    args = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    args |= {a.name: value(v) for a, v in zip(schema.arguments, node.args, strict=False)}
    args |= {k: value(v) for k, v in node.kwargs.items()}
    op = node.target._opname.removesuffix("_")
    call = OpCall(op, args, shapes, _module(node), _line(node), node.target, walk)
    rule = rule_for(op, node.target)
    if op.startswith("_assert") or (shapes == [] and not any(True for _ in call.operands())):
        return None
    if rule is None:
        return call.freeze_all(f"{call.location} is not known to gdp")
    out = rule(call)
    if rule.__module__ in (reshaping.__name__, elementwise.__name__):
        call.note_written_sizes(out)
    return out


def _shapes(val: Any) -> Any:
    """Shape of a tensor result, or the shapes of several."""
    if isinstance(val, Tensor):
        return tuple(val.shape)
    return [tuple(v.shape) for v in val if isinstance(v, Tensor)] if isinstance(val, list | tuple) else []


def _module(node: Node) -> str:
    """Path of the module that called an operator; empty for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((p for p, _ in reversed(stack.values()) if p), "")
    return path.removesuffix(".parametrizations.weight.0").removesuffix(".parametrizations.weight")


def _line(node: Node) -> str:
    """The innermost line of the user's source that led to an operator, as torch.export noted it."""
    entries = re.findall(r'File "(.+?)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    return next((f"{Path(f).name}:{n}: {code}" for f, n, code in reversed(entries) if is_user_file(f)), "")


def _ignored_tensors(model: nn.Module, ignore: Sequence[str | type]) -> dict[str, str]:
    """Every parameter and buffer under a module that a pattern matches -> the pattern."""
    found: dict[str, str] = {}
    for pattern in ignore:
        if isinstance(pattern, type):
            label, roots = pattern.__name__, [n for n, m in model.named_modules() if isinstance(m, pattern)]
        else:
            label, roots = pattern, [n for n, _ in model.named_modules() if n and fnmatchcase(plain_name(n), pattern)]
        if not roots:
            some = ", ".join(n for n, _ in model.named_children())
            raise GDPError(
                f"The `ignore` pattern {label!r} matches no module of {type(model).__name__}. "
                f"Its children are: {some}; patterns are module names, globs such as 'layer4.*', or module types."
            )
        for name, _ in _tensors(model):
            if any(name == r or name.startswith(f"{r}.") or not r for r in roots):
                found.setdefault(name, label)
    return found
