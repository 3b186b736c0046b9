"""Copies of the network beside it: averages of its weights are cut along, copies that nobody knows are refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from gdp.errors import GDPError
from gdp.gates import Gates
from gdp.lightning.compat import SWA_AVERAGE
from gdp.utils import get_module, parameter_shapes, under_plain_names, unwrap

DEPTH = 1  # objects that a callback or the training module holds are looked into, what these hold is not
NOT_THE_USERS = ("torch", "pytorch_lightning", "lightning", "builtins", "types", "functools", "gdp.")

Copy = tuple[str, nn.Module]  # name of a submodule of the network ("" is the network itself), and the copy of it


def find_averages(module: nn.Module, name: str, network: nn.Module, holders: Iterable[object]) -> list[Copy]:
    """Return the moving averages of a network, as part and copy.

    They are what an `AveragedModel` holds, in the training module or in a callback, and what Lightning's
    StochasticWeightAveraging holds.

    Args:
        module: the training module.
        name: plain name of the network in it.
        network: the network.
        holders: objects that may hold averages as attributes: the callbacks.
    """
    held = [m.module for m in module.modules() if isinstance(m, AveragedModel)]
    for holder in holders:
        for attribute, value in vars(holder).items():
            if isinstance(value, AveragedModel):
                held.append(value.module)
            elif attribute == SWA_AVERAGE and isinstance(value, nn.Module):
                held.append(value)
    inside = [m.module for average in held for m in average.modules() if isinstance(m, AveragedModel)]
    return [copy for average in (*held, *inside) for copy in _copies_in(average, name, network)]


def _copies_in(average: nn.Module, name: str, network: nn.Module) -> Iterator[Copy]:
    """Return the copies of the network that an average holds.

    The average may be one of the network, of a module around it (which then holds a copy of the whole network), or of a
    part of the network (which then is a copy of that part).

    Args:
        average: what holds the average.
        name: plain name of the network in the training module.
        network: the network.
    """
    path = name.split(".") if name else []
    for start in range(len(path), -1, -1):
        try:
            twin = get_module(average, ".".join(path[start:]))
        except AttributeError:
            continue
        if parameter_shapes(twin) == parameter_shapes(network):
            yield "", twin
            return
    inside = {id(m) for m in average.modules()}
    for part, original in under_plain_names(network, network.named_modules()).items():
        if part and id(original) not in inside and parameter_shapes(original) == parameter_shapes(average):
            yield part, unwrap(average)
            return


def check_unknown_copies(
    module: nn.Module,
    network: nn.Module,
    copies: Iterable[Copy],
    holders: Iterable[object],
    optimizers: Iterable[Optimizer],
) -> None:
    """Check that there is no second network with the same tensors of which nobody knows whether it follows the first.

    A teacher has to stay as it is, an average made by hand would have to be cut along. What is trained is neither.

    Args:
        module: the training module.
        network: the network in it.
        copies: the known averages.
        holders: objects that may hold copies as attributes: the callbacks.
        optimizers: of the run.

    Raises:
        GDPError: there is one.
    """
    # what is known of: trained tensors, and averages
    trained = {id(p) for o in optimizers for g in o.param_groups for p in g["params"] if p.requires_grad}
    known = {id(p) for _, copy in copies for p in copy.parameters()}

    # the shapes that a copy of the network, or of a part of it that is trained, would have
    originals = [network, *network.children()] if network is module else [network]
    mine = {id(p) for p in network.parameters() if id(p) in trained}
    sizes = [parameter_shapes(net) for net in originals if any(id(p) in mine for p in net.parameters())]
    shapes = [sorted(found.values()) for found in sizes if len(found) > 2]

    # everything that has them
    inside = [(name, m) for name, m in module.named_modules() if name]
    for name, part in [*inside, *_held_by(module, DEPTH), *(found for h in holders for found in _held_by(h, DEPTH))]:
        tensors = list(part.parameters()) if isinstance(part, nn.Module) else part
        accounted_for = any(id(t) in trained or id(t) in known for t in tensors)
        if accounted_for or sorted(tuple(t.shape) for t in tensors) not in shapes:
            continue
        raise GDPError(
            f"{name!r} has the same tensors as the network that is pruned. If it is an average of its weights, hold "
            "it in torch.optim.swa_utils.AveragedModel, and gdp cuts it along. Else, and if it stays as it is (a "
            "teacher), cut when training is over: GDPCallback(shrink='end'); an average by hand can be cut then by "
            "gdp.cut_like(average, network)."
        )


def _held_by(holder: object, depth: int, name: str = "") -> Iterator[tuple[str, nn.Module | list[Tensor]]]:
    """Return networks, and lists or dicts of tensors, that an object of the user's holds in its attributes.

    Args:
        holder: an object of the user's.
        depth: how many objects deep attributes are looked at.
        name: of the holder, for messages.
    """
    name = name or type(holder).__name__
    for attribute, value in vars(holder).items():
        where = f"{name}.{attribute}"
        values = list(value.values()) if isinstance(value, dict) else value
        if isinstance(value, nn.Module) and not isinstance(holder, nn.Module):
            yield from ((f"{where}.{inner}".rstrip("."), part) for inner, part in value.named_modules())
        elif isinstance(values, list | tuple) and values and all(isinstance(v, Tensor) for v in values):
            yield where, list(values)
        elif depth and hasattr(value, "__dict__") and not type(value).__module__.startswith(NOT_THE_USERS):
            yield from _held_by(value, depth - 1, where)


def track_averages(trainer: Any, module: nn.Module, name: str, gates: Gates) -> None:
    """Gate the averages of the network; from now on they are cut along.

    Args:
        trainer: of either family.
        module: the training module.
        name: plain name of the network in it.
        gates: of the network.
    """
    for part, copy in find_averages(module, name, gates.model, trainer.callbacks):
        gates.track_copy(copy, part)
