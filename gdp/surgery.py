"""Surgery: cut closed channels out of every tensor, in place. Objects, classes, names and `forward` stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.plan import Plan

Undo = Callable[[], None]


def select(tensor: Tensor, keep: dict[int, tuple[int, ...]]) -> Tensor:
    """The kept entries of a tensor along each dimension, in the memory format it had."""
    out = tensor
    for dim, kept in keep.items():
        out = out.index_select(dim, torch.tensor(kept, device=tensor.device))
    channels_last = (
        tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def cut(model: nn.Module, plan: Plan, optimizers: Iterable[Optimizer] = ()) -> Undo:
    """Cut a network by a plan; parameters keep their identity. Return what puts everything back.

    Optimizer state of the shape of its parameter (momentum, Adam's moments) is cut by the same indices.

    Raises:
        GDPError: the network is not the one the plan was made for; nothing has been changed then.
    """
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    check_shapes(plan, {name: tuple(t.shape) for name, t in tensors.items()})
    optimizers = tuple(optimizers)
    owners = {id(tensors[name]) for name in plan.keep}
    touched = [m for m in model.modules() if owners & {id(t) for t in (*m._parameters.values(), *m._buffers.values())}]
    depthwise = {m: _is_depthwise(m) for m in touched}
    undo: list[Undo] = []
    for name, keep in plan.keep.items():
        tensor = tensors[name]
        for state in (o.state[tensor] for o in optimizers if tensor in o.state):
            for key, value in state.items():
                if isinstance(value, Tensor) and value.dim() and value.shape == tensor.shape:
                    undo.append(partial(state.__setitem__, key, value))
                    state[key] = select(value, keep)
        grad = tensor.grad if tensor.is_leaf else None
        tensor.grad = None
        undo += [partial(setattr, tensor, "data", tensor.data), partial(setattr, tensor, "grad", grad)]
        tensor.data = select(tensor.data, keep)
        if grad is not None:
            tensor.grad = select(grad, keep)
    for module in touched:
        for field, value in _fields(module, depthwise[module]).items():
            undo.append(partial(setattr, module, field, getattr(module, field)))
            setattr(module, field, value)

    def put_back() -> None:
        for name in plan.keep:
            tensors[name].grad = None  # a gradient of the wrong shape would not let its tensor change back
        for step in undo:
            step()

    return put_back


def check_shapes(plan: Plan, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a plan that was made for another network."""
    missing = [name for name in plan.keep if name not in shapes]
    other = [name for name, shape in shapes.items() if name in plan.shapes and plan.shapes[name] != shape]
    if missing or other:
        name = (missing or other)[0]
        raise GDPError(
            f"The plan belongs to another network: it expects {name} of shape {plan.shapes.get(name)}, "
            f"but found {shapes.get(name, 'no such tensor')} ({len(missing) + len(other)} tensors differ)."
        )


def _is_depthwise(module: nn.Module) -> bool:
    groups = getattr(module, "groups", 1)
    return isinstance(groups, int) and groups > 1 and groups == getattr(module, "in_channels", None)


def _conv_fields(module: Any, depthwise: bool) -> dict[str, Any]:
    rows, cols = module.weight.shape[:2]
    if getattr(module, "transposed", False):
        groups = rows if depthwise else module.groups
        return {"in_channels": rows, "out_channels": cols * groups, "groups": groups}
    groups = rows * module.in_channels // module.out_channels if depthwise else module.groups
    return {"in_channels": cols * groups, "out_channels": rows, "groups": groups}


def _linear_fields(module: Any, _: bool) -> dict[str, Any]:
    return {"in_features": module.weight.shape[1], "out_features": module.weight.shape[0]}


def _norm_fields(module: Any, _: bool) -> dict[str, Any]:
    tensor = next(t for t in (module.weight, module.running_mean) if t is not None)
    return {"num_features": tensor.shape[0]}


_FIELDS: dict[type, Callable[[Any, bool], dict[str, Any]]] = {
    nn.modules.conv._ConvNd: _conv_fields,
    nn.Linear: _linear_fields,
    nn.modules.batchnorm._NormBase: _norm_fields,
    nn.PReLU: lambda module, _: {"num_parameters": module.weight.shape[0]},
}


def _fields(module: nn.Module, depthwise: bool) -> dict[str, Any]:
    """The attributes of a module that describe the sizes of its tensors, as they are after the cut."""
    for cls, fields in _FIELDS.items():
        if isinstance(module, cls):
            return fields(module, depthwise)
    return {}
