"""Surgery: cut closed channels out of every tensor, in place. Objects, classes, names and `forward` stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError
from gdp.graph import CutPlan
from gdp.surgery.constant import replace_branch_with_constant
from gdp.utils import CONV, NORM, named_tensors, under_plain_names

Undo = Callable[[], None]
Describe = Callable[[Any, int], dict[str, Any]]  # module, groups left -> fields that say how large its tensors are


def keep_entries(tensor: Tensor, keep: dict[int, tuple[int, ...]]) -> Tensor:
    """The kept entries of a tensor along each dimension, in the memory format it had."""
    out = tensor
    for dim, kept in keep.items():
        out = out.index_select(dim, torch.tensor(kept, device=tensor.device))
    channels_last = (
        tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def cut(model: nn.Module, plan: CutPlan, optimizers: Iterable[Optimizer] = ()) -> Undo:
    """Cut a network by a plan; parameters keep their identity. Return what puts everything back.

    Optimizer state of the shape of its parameter (momentum, Adam's moments) is cut by the same indices.

    Raises:
        GDPError: the network is not the one the plan was made for, or an optimizer keeps state of another shape;
            nothing has been changed then.
    """
    tensors = named_tensors(model)
    check_plan_fits(plan, model)
    optimizers = tuple(optimizers)
    check_optimizers({name: tensors[name] for name in plan.keep}, optimizers)
    kept_of = {id(tensors[name]): keep for name, keep in plan.keep.items()}
    fields = [(m, *_sizes(m, kept_of)) for m in model.modules()]
    with ExitStack() as undo:
        for name, keep in plan.keep.items():
            tensor = tensors[name]
            for state in (o.state[tensor] for o in optimizers if tensor in o.state):
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.numel() > 1:
                        undo.callback(state.__setitem__, key, value)
                        state[key] = keep_entries(value, keep)
            grad = tensor.grad if tensor.is_leaf else None
            undo.callback(_replace_data, tensor, tensor.data, grad)
            _replace_data(tensor, keep_entries(tensor.data, keep), None if grad is None else keep_entries(grad, keep))
        for module, describe, groups in fields:
            for field, value in describe(module, groups).items():
                undo.callback(setattr, module, field, getattr(module, field))
                setattr(module, field, value)
        for block in plan.blocks:
            undo.callback(replace_branch_with_constant(model, block))
        return undo.pop_all().close


def _replace_data(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Give a tensor other data, of another shape maybe.

    A graph that is still alive (a loss that somebody holds) keeps the gradient's shape; autograd makes it anew only if
    the type changes, so it does, for a moment.
    """
    tensor.grad = None
    if tensor.is_leaf and tensor.requires_grad:
        tensor.data = torch.empty(0, dtype=torch.float32 if data.dtype == torch.float64 else torch.float64)
    tensor.data = data
    tensor.grad = grad


def check_optimizers(tensors: Mapping[str, Tensor], optimizers: Iterable[Optimizer]) -> None:
    """Refuse optimizers whose state can't be cut by the indices of the parameter.

    Args:
        tensors: the parameters that are to be cut, by name.
        optimizers: whose state is looked at.

    Raises:
        GDPError: there is state that is no number and has another shape than its parameter.
    """
    names = {id(tensor): name for name, tensor in tensors.items()}
    for optimizer in optimizers:
        if not any(id(p) in names for group in optimizer.param_groups for p in group["params"]):
            continue
        for tensor, state in optimizer.state.items():  # LBFGS keeps that of all parameters with the first
            for key, value in state.items():
                sizes = [tuple(t.shape) for t in tree_leaves(value) if isinstance(t, Tensor)]
                fits = isinstance(value, Tensor) and value.shape == tensor.shape
                if any(math.prod(size) > 1 for size in sizes) and not fits:
                    raise GDPError(
                        f"{type(optimizer).__name__} keeps {key!r} of shape {', '.join(map(str, sizes[:3]))} for "
                        f"{names.get(id(tensor), 'a parameter')} of shape {tuple(tensor.shape)}; gdp can cut state of "
                        "the parameter's own shape only (momentum, Adam's moments). Cut when training is over, "
                        "GDPCallback(shrink='end'), or make a new optimizer for the small network."
                    )


def check_plan_fits(plan: CutPlan, model: nn.Module) -> None:
    """Refuse a plan that was made for another network. Buffers that are not cut may have changed: tables grow."""
    parameters = under_plain_names(model.named_parameters())
    shapes = {
        name: tuple(t.shape) for name, t in named_tensors(model).items() if name in parameters or name in plan.keep
    }
    missing = [name for name in plan.keep if name not in shapes]
    other = [name for name, shape in shapes.items() if name in plan.shapes and plan.shapes[name] != shape]
    if missing or other:
        name = (missing or other)[0]
        raise GDPError(
            f"The plan belongs to another network: it expects {name} of shape {plan.shapes.get(name)}, "
            f"but found {shapes.get(name, 'no such tensor')} ({len(missing) + len(other)} tensors differ)."
        )


def _sizes(module: nn.Module, kept_of: dict[int, dict[int, tuple[int, ...]]]) -> tuple[Describe, int]:
    """What describes the module's tensors once they are cut, and how many of its groups are left."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    for part in getattr(module, "parametrizations", {}).values():
        own += part.parameters()
    cut_along = [(t.shape[0], kept_of[id(t)]) for t in own if id(t) in kept_of]
    describe = next((d for cls, d in _FIELDS.items() if isinstance(module, cls)), None)
    if describe is None or not cut_along:
        return lambda module, groups: {}, 1
    groups: int = getattr(module, "num_groups" if isinstance(module, nn.GroupNorm) else "groups", 1)
    rows, kept = next(((size, keep[0]) for size, keep in cut_along if 0 in keep and size % groups == 0), (groups, ()))
    return describe, len({i * groups // rows for i in kept}) if kept else groups


def _weight_shape(module: Any) -> torch.Size:
    """Of the weight as forward uses it; torch.nn.utils.weight_norm computes it anew before every forward."""
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    name = next((name for name in ("weight", "weight_v") if name in own), None)
    weight: Tensor = module.weight if name is None else own[name]
    return weight.shape


def _conv_fields(module: Any, groups: int) -> dict[str, Any]:
    rows, cols = _weight_shape(module)[:2]
    made, read = (cols * groups, rows) if module.transposed else (rows, cols * groups)
    return {"in_channels": read, "out_channels": made, "groups": groups}


def _linear_fields(module: Any, _: int) -> dict[str, Any]:
    rows, cols = _weight_shape(module)
    return {"in_features": cols, "out_features": rows}


def _norm_fields(module: Any, _: int) -> dict[str, Any]:
    tensor = next(t for t in (module.weight, module.running_mean) if t is not None)
    return {"num_features": tensor.shape[0]}


_FIELDS: dict[type, Describe] = {
    CONV: _conv_fields,
    nn.Linear: _linear_fields,
    NORM: _norm_fields,
    nn.GroupNorm: lambda module, groups: {"num_groups": groups, "num_channels": module.weight.shape[0]},
    nn.PReLU: lambda module, _: {"num_parameters": module.weight.shape[0]},
}
