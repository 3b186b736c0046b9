"""State of optimizers, and of the optimizers that they hold: what of it can be cut along with the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError
from gdp.graph import CutPlan
from gdp.surgery.entries import Undo, keep_entries
from gdp.utils import map_tensors

DEPTH = 6  # containers and objects in each other that are looked into
NOT_LOOKED_INTO = {"torch", "pytorch_lightning", "lightning", "builtins", "types", "functools", "weakref", "gdp"}
WAY_OUT = "Cut when training is over, GDPCallback(shrink='end'), or make a new optimizer for the small network."


def with_inner(optimizers: Iterable[Optimizer]) -> list[Any]:
    """Return optimizers and those that they hold in their attributes (SAM, Lookahead, other wrappers), each once.

    Args:
        optimizers: of the run.
    """
    found: dict[int, Any] = {}
    waiting: list[Any] = list(optimizers)
    while waiting:
        optimizer = waiting.pop(0)
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            seen = {id(optimizer.state), id(optimizer.param_groups)}
            waiting += [held for _, held in _held(vars(optimizer), "", seen) if not isinstance(held, Tensor)]
    return list(found.values())


def cut_optimizer_state(tensors: Mapping[str, Tensor], plan: CutPlan, optimizers: Iterable[Optimizer]) -> Undo:
    """Cut state of the shape of its parameter by the indices of the parameter; return what puts it back.

    Args:
        tensors: of the network, by name.
        plan: by which the network is cut.
        optimizers: that have passed `check_optimizers`.
    """
    keep_of = {id(tensors[name]): keep for name, keep in plan.keep.items()}
    states: dict[int, tuple[dict[str, Any], dict[int, tuple[int, ...]]]] = {}  # each once, though several may share it
    for optimizer in with_inner(optimizers):
        for tensor, state in optimizer.state.items():
            if _is_state(tensor, state) and id(tensor) in keep_of:
                states[id(state)] = state, keep_of[id(tensor)]
    with ExitStack() as undo:
        for state, keep in states.values():
            for key, value in state.items():
                undo.callback(state.__setitem__, key, value)
                state[key] = map_tensors(partial(_kept, keep=keep), value)
        return undo.pop_all().close


def _kept(value: Tensor, keep: dict[int, tuple[int, ...]]) -> Tensor:
    return keep_entries(value, keep) if value.numel() > 1 else value


def check_optimizers(tensors: Mapping[str, Tensor], optimizers: Iterable[Optimizer]) -> None:
    """Check that what optimizers keep of parameters can be cut by the indices of the parameters.

    Args:
        tensors: the parameters that are to be cut, by name.
        optimizers: whose state is checked; those that hold none of the parameters pass.

    Raises:
        GDPError: there is state that is no number and has another shape than its parameter, or a tensor that may be
            made of a parameter lies elsewhere in the optimizer.
    """
    names = {id(tensor): name for name, tensor in tensors.items()}
    for outer in optimizers:
        related = with_inner([outer])
        parameters = [p for optimizer in related for group in optimizer.param_groups for p in group["params"]]
        if any(id(p) in names for p in parameters):
            known = names.keys() | {id(p) for group in outer.param_groups for p in group["params"]}
            by_parameter = [s for o in related for p, s in o.state.items() if _is_state(p, s)]
            states = {id(s) for s in [*by_parameter, *(o.state for o in related)]}
            for optimizer in related:
                _check_state(optimizer, names)
                _check_attributes(optimizer, tensors, known, states)


def _check_state(optimizer: Any, names: Mapping[int, str]) -> None:
    """Check the state that an optimizer keeps by parameter.

    Args:
        optimizer: any optimizer.
        names: id of a parameter that is to be cut -> its name.

    Raises:
        GDPError: there is state of another shape than its parameter.
    """
    for tensor, state in optimizer.state.items():  # LBFGS keeps that of all parameters with the first
        for key, value in state.items() if _is_state(tensor, state) else ():
            inside = [t for _, t in _held(value, key, set()) if isinstance(t, Tensor) and t.numel() > 1]
            reached = {id(t) for t in tree_leaves(value)}  # not what lies in objects
            shapes = [tuple(t.shape) for t in inside if t.shape != tensor.shape or id(t) not in reached]
            if shapes:
                raise GDPError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {', '.join(map(str, shapes[:3]))} for "
                    f"{names.get(id(tensor), 'a parameter')} of shape {tuple(tensor.shape)}; gdp can cut state of "
                    f"the parameter's own shape only (momentum, Adam's moments). {WAY_OUT}"
                )


def _check_attributes(optimizer: Any, tensors: Mapping[str, Tensor], known: set[int], states: set[int]) -> None:
    """Check that an optimizer keeps nothing in lists, dicts and objects of its own that is made of a parameter.

    Which parameter such a tensor belongs to can't be seen; but it is as large as one, or as all of a group.

    Args:
        optimizer: any optimizer.
        tensors: the parameters that are to be cut, by name.
        known: ids of the tensors that are cut themselves, or stay.
        states: ids of containers that `_check_state` has checked.

    Raises:
        GDPError: there is a tensor of such a size.
    """
    sizes = {tensor.numel(): f"{name} of shape {tuple(tensor.shape)}" for name, tensor in tensors.items()}
    groups = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    sizes |= dict.fromkeys([*groups, sum(groups)], "all parameters together")
    unusual = {key: value for key, value in optimizer.state.items() if not _is_state(key, value)}
    own = vars(optimizer) | {"param_groups": optimizer.param_groups, "state": unusual}
    for attribute, value in own.items():
        for where, held in _held(value, attribute, set(states)):
            if isinstance(held, Tensor) and id(held) not in known and held.numel() > 1 and held.numel() in sizes:
                raise GDPError(
                    f"{type(optimizer).__name__} keeps a tensor of shape {tuple(held.shape)} in {where!r}, which is as "
                    f"large as {sizes[held.numel()]}; gdp can cut what lies in the `state` of an optimizer, by "
                    f"parameter. {WAY_OUT}"
                )


def _held(value: Any, where: str, seen: set[int], depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Return the tensors and optimizers in a value, its containers and objects, with the place of each.

    Args:
        value: what an attribute holds.
        where: name of the attribute.
        seen: ids of what is not looked into (any more).
        depth: how many containers and objects deep it is looked.
    """
    if isinstance(value, Tensor) or _is_optimizer(value):
        yield where, value
        return
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        inside = [(f"{where}.{name}", t) for name, t in [*value.named_parameters(), *value.named_buffers()]]
    elif isinstance(value, Mapping):
        inside = [(f"{where}[{key!r}]" if isinstance(key, str | int) else where, v) for key, v in value.items()]
    elif isinstance(value, list | tuple | set | frozenset):
        inside = [(where, v) for v in value]
    elif hasattr(value, "__dict__") and type(value).__module__.split(".")[0] not in NOT_LOOKED_INTO:
        inside = [(f"{where}.{name}", v) for name, v in vars(value).items()]
    else:
        return
    for place, part in inside:
        yield from _held(part, place, seen, depth - 1)


def _is_state(key: Any, state: Any) -> bool:
    """Return whether an entry of an optimizer's state is what it usually is, a dict by parameter.

    Args:
        key: of the entry.
        state: its value.
    """
    return isinstance(key, Tensor) and isinstance(state, dict)


def _is_optimizer(value: Any) -> bool:
    """Return whether a value is an optimizer, or is used as one.

    Args:
        value: any object.
    """
    own = getattr(value, "__dict__", {})
    return isinstance(value, Optimizer) or {"state", "param_groups"} <= own.keys()
