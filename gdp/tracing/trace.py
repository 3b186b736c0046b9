"""Trace a network: run its own operations on labels, and group its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from gdp.errors import GDPError
from gdp.graph import ChannelGraph
from gdp.tracing.export import exported
from gdp.tracing.grouping import group_channels
from gdp.tracing.interpreter import LabelInterpreter, module_of
from gdp.tracing.plain_weights import check_plain
from gdp.tracing.residual_branches import find_residual_branches
from gdp.tracing.selecting import selecting_operators
from gdp.tracing.trace_state import TraceState
from gdp.tracing.training_mode import differs_in_training
from gdp.tracing.unused_nodes import unused_nodes, uses_parameters
from gdp.utils import (
    CONV,
    as_inputs,
    check_ungated,
    double_batch,
    match_weights,
    named_tensors,
    plain_name,
    under_plain_names,
)

Pass = tuple[ExportedProgram, frozenset[Node]]  # an exported network, and its operators whose results nothing uses


def trace_channels(
    model: nn.Module, example_inputs: Any, ignore: Sequence[str | type] = (), blocks: bool = False
) -> ChannelGraph:
    """Find the channel groups of a network by running its own operations on labels.

    Sizes that are written in `forward` are not seen here: `gdp.surgery.trace` tries the cuts as well.

    Args:
        model: any `nn.Module` that torch.export can follow; it is left as it was, mode and RNG included.
        example_inputs: one tensor or a tuple of inputs, as `forward` takes them. FLOPs are counted for these.
        ignore: layers whose inputs and outputs keep their sizes: module names, globs over them, or module types.
        blocks: find the residual branches that may be removed as a whole, too.

    Raises:
        GDPError: the network can't be exported, or a pattern of `ignore` matches no module.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = trace_channels(net, torch.zeros(1, 3, 8, 8))
    >>> [(g.name, g.size, g.readers) for g in graph.groups]
    [('0', 8, ('2',))]
    >>> [(f.name, f.channels, f.reason) for f in graph.frozen]
    [('2', 4, "reaches the network's output")]
    """
    if not isinstance(model, nn.Module):
        raise GDPError(f"Expected a torch.nn.Module to trace, but got {type(model).__name__}.")
    check_ungated(model)
    check_plain(model)
    check_ignore(ignore)

    # every parameter and buffer by one name, though shared ones have several
    inputs = match_weights(model, as_inputs(model, example_inputs))
    tensors = named_tensors(model)
    first_name: dict[int, str] = {}
    names = {name: first_name.setdefault(id(t), name) for name, t in tensors.items()}
    ignored = {names[name]: pattern for name, pattern in _ignored_tensors(model, ignore).items()}

    # export the network as it computes in eval mode, and as it trains if that is something else
    programs = [exported(model, inputs)]
    unused = unused_nodes(programs[0].graph)  # by eval mode; the losses of training may use it
    passes = [(programs[0], unused)]
    if differs := differs_in_training(model, inputs) or uses_parameters(programs[0], unused):
        programs += _exported_for_training(model, inputs)
        passes += [(p, unused_nodes(p.graph)) for p in programs[1:]] or [(programs[0], frozenset())]

    # where a grouped conv can't be cut one way (whole groups, or the same channels of every group), try the other
    settable = _weights_with_settable_groups(model, names)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    state = _traced(passes, names, ignored, TraceState(shapes, settable))
    graph = group_channels(state, inputs)
    stuck = frozenset(name for name in state.two_way_grouping if not graph.carries(name))
    if stuck:
        flipped = group_channels(_traced(passes, names, ignored, TraceState(shapes, settable, stuck)), inputs)
        graph = max((graph, flipped), key=lambda g: sum(group.size for group in g.groups))

    # weights that only their own layers use, parameters that nothing uses, choices by value, and residual branches
    if not differs or len(programs) > 1:
        uses = _uses_of_parameters(programs, names)
        private = frozenset(name for name, alone in uses.items() if alone)
        own = {names[name] for name in under_plain_names(model, model.named_parameters())}
        unread = own - uses.keys() - ignored.keys()
        graph = replace(graph, private_weights=private, unread=frozenset(unread))
    graph = replace(graph, selects=selecting_operators(programs[0], unused))
    return graph.with_blocks(find_residual_branches(programs[0], graph, model)) if blocks else graph


def _traced(passes: Sequence[Pass], names: dict[str, str], ignored: dict[str, str], state: TraceState) -> TraceState:
    """Run every program on labels, freeze what is ignored, and return the finished state.

    Args:
        passes: the network as it computes, and maybe as it trains; FLOPs are counted in the first.
        names: every name of a parameter or buffer -> the one that it is known by.
        ignored: tensors whose channels stay -> the pattern of `ignore` that says so.
        state: a new one.
    """
    for program, unused in passes:
        LabelInterpreter(program, state, names, unused).run(enable_io_processing=False)
        state.counting = False
    for (tensor, _), ids in state.axes.items():
        if tensor in ignored:
            state.channel_ids.freeze(ids, f"ignored by {ignored[tensor]!r}")
    state.finish()
    return state


def _weights_with_settable_groups(model: nn.Module, names: dict[str, str]) -> frozenset[str]:
    """Return the weights of conv modules, whose attribute `groups` can be changed along with them.

    Args:
        model: the network.
        names: every name of a parameter or buffer -> the one that it is known by.
    """
    modules = under_plain_names(model, model.named_modules(remove_duplicate=False))
    weights = (f"{name}.weight".lstrip(".") for name, module in modules.items() if isinstance(module, CONV))
    return frozenset(names[weight] for weight in weights if weight in names)


def check_ignore(ignore: object) -> None:
    """Check that `ignore` is a list of patterns.

    Args:
        ignore: what the user gave.

    Raises:
        GDPError: it is no list, or holds something else than names, globs and types.
    """
    if not isinstance(ignore, list | tuple) or not all(isinstance(p, str | type) for p in ignore):
        raise GDPError(f"Expected `ignore` to be a list of names, globs or module types, but got {ignore!r}.")


def _exported_for_training(model: nn.Module, inputs: tuple[Any, ...]) -> list[ExportedProgram]:
    """Return the network as it trains, in a list; an empty list where that can't be exported.

    Layers that are called in train mode only keep their sizes then. The dry run calls them in the cut network, and
    freezes groups that they can't follow.

    Args:
        model: the network.
        inputs: the example input; it is doubled along the batch if needed, since batch norm refuses single values.
    """
    for example in (inputs, double_batch(inputs)):
        try:
            return [exported(model, example, training=True)]
        except GDPError:
            continue
    return []


def _uses_of_parameters(programs: Sequence[ExportedProgram], names: dict[str, str]) -> dict[str, bool]:
    """Return the parameters that an operator uses, and whether only those of the module do which holds them.

    Args:
        programs: the network, exported.
        names: every name of a parameter or buffer -> the one that it is known by.
    """
    used: dict[str, bool] = {}
    for program in programs:
        for node in program.graph.nodes:
            stored = program.graph_signature.inputs_to_parameters.get(node.name) if node.op == "placeholder" else None
            if stored is not None and node.users:
                name = plain_name(stored)
                alone = all(module_of(user) == name.rpartition(".")[0] for user in node.users)
                used[names[name]] = used.get(names[name], True) and alone and names[name] == name
    return used


def _ignored_tensors(model: nn.Module, ignore: Sequence[str | type]) -> dict[str, str]:
    """Return every parameter and buffer under a module that a pattern matches -> the pattern.

    Args:
        model: the network.
        ignore: module names, globs over them, or module types.

    Raises:
        GDPError: a pattern matches no module.
    """
    modules = under_plain_names(model, model.named_modules())
    found: dict[str, str] = {}
    for pattern in ignore:
        # modules that the pattern matches
        if isinstance(pattern, type):
            label, roots = pattern.__name__, [n for n, m in modules.items() if isinstance(m, pattern)]
        else:
            label, roots = pattern, [n for n in modules if n and fnmatchcase(n, pattern)]
        if not roots:
            some = ", ".join(n for n, _ in model.named_children())
            raise GDPError(
                f"The `ignore` pattern {label!r} matches no module of {type(model).__name__}. "
                f"Its children are: {some}; patterns are module names, globs such as 'layer4.*', or module types."
            )
        # their tensors, and those of their children
        for name in named_tensors(model):
            if any(name == r or name.startswith(f"{r}.") or not r for r in roots):
                found.setdefault(name, label)
    return found
