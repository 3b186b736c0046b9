"""Cut channels out of every tensor of a network, in place. Objects, classes, names and `forward` stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.graph import CutPlan
from gdp.surgery.constant import replace_branch_with_constant
from gdp.surgery.entries import Undo, keep_entries
from gdp.surgery.optimizers import check_optimizers, cut_optimizer_state
from gdp.utils import CONV, NORM, named_tensors, under_plain_names

SizesOf = Callable[[Any, int], dict[str, Any]]  # module, groups left -> attributes that hold sizes, and their values


def cut(model: nn.Module, plan: CutPlan, optimizers: Iterable[Optimizer] = ()) -> Undo:
    """Cut a network by a plan, in place; return what puts everything back.

    Parameters keep their identity. Optimizer state of the shape of its parameter (momentum, Adam's moments) is cut by
    the same indices, that of optimizers within optimizers included.

    Args:
        model: the network.
        plan: made for this network.
        optimizers: whose state is cut along.

    Raises:
        GDPError: the network is not the one the plan was made for, or an optimizer keeps state of another shape;
            nothing has been changed then.
    """
    # refuse what can't be done before anything is changed
    tensors = named_tensors(model)
    check_plan_fits(plan, model)
    optimizers = tuple(optimizers)
    check_optimizers({name: tensors[name] for name in plan.keep}, optimizers)

    # read off the groups of convs and norms while the tensors are whole
    kept_of = {id(tensors[name]): keep for name, keep in plan.keep.items()}
    sized = [(m, *_sizes(m, kept_of)) for m in model.modules()]
    derived = _derived_weights(model)

    # cut tensors, their gradients, optimizer state and what was computed from them;
    # then set the sizes that modules hold; then replace branches
    with ExitStack() as undo:
        undo.callback(cut_optimizer_state(tensors, plan, optimizers))
        for name, keep in plan.keep.items():
            tensor = tensors[name]
            grad = tensor.grad if tensor.is_leaf else None
            undo.callback(_replace_data, tensor, tensor.data, grad)
            _replace_data(tensor, keep_entries(tensor.data, keep), None if grad is None else keep_entries(grad, keep))
            for module, attribute, value in derived.get(id(tensor), ()):
                undo.callback(setattr, module, attribute, value)
                setattr(module, attribute, keep_entries(value.detach(), keep))
        for module, sizes_of, groups in sized:
            for attribute, value in sizes_of(module, groups).items():
                undo.callback(setattr, module, attribute, getattr(module, attribute))
                setattr(module, attribute, value)
                if isinstance(module, nn.RNNBase):
                    module.flatten_parameters()  # cuDNN wants its weights in one piece
        for branch in plan.blocks:
            undo.callback(replace_branch_with_constant(model, branch))
        return undo.pop_all().close


def _replace_data(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Give a tensor other data, maybe of another shape, and another gradient.

    While an autograd graph is alive (somebody holds a loss), autograd remembers the shape that the gradient of this
    tensor must have. It forgets the shape only when the type of the data changes, so the type is changed for a moment.

    Args:
        tensor: a parameter or buffer.
        data: its new data.
        grad: its new gradient, of the shape of `data`; or None.
    """
    tensor.grad = None
    if tensor.is_leaf and tensor.requires_grad:
        tensor.data = torch.empty(0, dtype=torch.float32 if data.dtype == torch.float64 else torch.float64)
    tensor.data = data
    tensor.grad = grad


def _derived_weights(model: nn.Module) -> dict[int, list[tuple[nn.Module, str, Tensor]]]:
    """Return the weights that hooks compute before every forward and leave in plain attributes.

    torch.nn.utils.weight_norm makes `weight` of `weight_v`; spectral_norm and torch.nn.utils.prune of `weight_orig`.

    Args:
        model: the network.

    Returns:
        Id of the parameter that one is made of -> module, attribute, and the weight, of the shape of the parameter.
    """
    found: dict[int, list[tuple[nn.Module, str, Tensor]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            attribute = name.removesuffix("_orig").removesuffix("_v")
            value = vars(module).get(attribute)
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                found.setdefault(id(parameter), []).append((module, attribute, value))
    return found


def check_plan_fits(plan: CutPlan, model: nn.Module) -> None:
    """Check that a plan was made for this network, as far as names and shapes tell.

    Buffers that are not cut may have other shapes, since some grow (tables of positions).

    Args:
        plan: to be checked.
        model: the network.

    Raises:
        GDPError: a tensor is missing, or has another shape.
    """
    parameters = under_plain_names(model, model.named_parameters())
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


def _sizes(module: nn.Module, kept_of: dict[int, dict[int, tuple[int, ...]]]) -> tuple[SizesOf, int]:
    """Return the function that gives a module's sizes once its tensors are cut, and how many of its groups are left.

    Args:
        module: any module of the network, not cut yet.
        kept_of: id of a tensor -> kept indices along each dimension that is cut.
    """
    # tensors of the module that are cut
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    for part in getattr(module, "parametrizations", {}).values():
        own += part.parameters()
    cut_along = [(t.shape[0], kept_of[id(t)]) for t in own if id(t) in kept_of]
    sizes_of = next((function for cls, function in _SIZES.items() if isinstance(module, cls)), None)
    if sizes_of is None or not cut_along:
        return lambda module, groups: {}, 1

    # a group is left if any of its rows is
    groups: int = getattr(module, "num_groups" if isinstance(module, nn.GroupNorm) else "groups", 1)
    rows, kept = next(((size, keep[0]) for size, keep in cut_along if 0 in keep and size % groups == 0), (groups, ()))
    return sizes_of, len({i * groups // rows for i in kept}) if kept else groups


def _weight_shape(module: Any) -> torch.Size:
    """Return the shape of a layer's weight after the cut.

    torch.nn.utils.weight_norm keeps the weight as `weight_v`, and computes `weight` before every forward only.

    Args:
        module: a conv or linear.
    """
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    name = next((name for name in ("weight", "weight_v") if name in own), None)
    weight: Tensor = module.weight if name is None else own[name]
    return weight.shape


def _conv_sizes(module: Any, groups: int) -> dict[str, Any]:
    """Return the sizes of a conv after the cut.

    Args:
        module: the conv.
        groups: that are left.
    """
    rows, cols = _weight_shape(module)[:2]
    made, read = (cols * groups, rows) if module.transposed else (rows, cols * groups)
    return {"in_channels": read, "out_channels": made, "groups": groups}


def _linear_sizes(module: Any, _: int) -> dict[str, Any]:
    """Return the sizes of a linear after the cut.

    Args:
        module: the linear.
    """
    rows, cols = _weight_shape(module)
    return {"in_features": cols, "out_features": rows}


def _norm_sizes(module: Any, _: int) -> dict[str, Any]:
    """Return the size of a batch or instance norm after the cut.

    Args:
        module: the norm.
    """
    tensor = next(t for t in (module.weight, module.running_mean) if t is not None)
    return {"num_features": tensor.shape[0]}


def _recurrent_sizes(module: Any, _: int) -> dict[str, Any]:
    """Return the size of the input of a recurrent layer or cell after the cut.

    Args:
        module: the layer.
    """
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    return {"input_size": own["weight_ih" if isinstance(module, nn.RNNCellBase) else "weight_ih_l0"].shape[1]}


# type of a layer -> its sizes after the cut
_SIZES: dict[type, SizesOf] = {
    CONV: _conv_sizes,
    nn.Linear: _linear_sizes,
    nn.RNNBase: _recurrent_sizes,
    nn.RNNCellBase: _recurrent_sizes,
    NORM: _norm_sizes,
    nn.GroupNorm: lambda module, groups: {"num_groups": groups, "num_channels": module.weight.shape[0]},
    nn.PReLU: lambda module, _: {"num_parameters": module.weight.shape[0]},
}
