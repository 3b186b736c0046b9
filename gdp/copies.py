"""Copies of the network that live beside it: averages of its weights, which are cut along, and what nobody knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from gdp.errors import GDPError
from gdp.example import unwrapped

Copy = tuple[str, nn.Module]  # name of a submodule of the network ("" is the network itself), and the copy of it


def averages(module: nn.Module, name: str, network: nn.Module, holders: Iterable[object]) -> list[Copy]:
    """The moving averages of a network.

    They are what an `AveragedModel` holds, in the training module or in a callback, and a copy of the whole training
    module that a callback keeps, as Lightning's StochasticWeightAveraging does.

    Args:
        module: the training module.
        name: name of the network in it.
        network: the network.
        holders: objects that may hold averages as attributes: the callbacks.
    """
    held = [m.module for m in module.modules() if isinstance(m, AveragedModel)]
    held += [
        m.module if isinstance(m, AveragedModel) else m
        for _, m in _outside(module, holders)
        if isinstance(m, AveragedModel) or type(m) is type(module)
    ]
    return [copy for average in held for copy in _copies_in(average, name, network)]


def _copies_in(average: nn.Module, name: str, network: nn.Module) -> Iterator[Copy]:
    """The network, or the largest part of it, in an average of it, of a module around it or of a part of it."""
    path = name.split(".") if name else []
    for start in range(len(path), -1, -1):
        try:
            twin = unwrapped(average.get_submodule(".".join(path[start:])))
        except AttributeError:
            continue
        if _sizes(twin) == _sizes(network):
            yield "", twin
            return
    inside = {id(m) for m in average.modules()}
    for part, original in network.named_modules():
        if part and id(original) not in inside and _sizes(original) == _sizes(average):
            yield part, average
            return


def refuse_unknown(
    module: nn.Module,
    network: nn.Module,
    copies: Iterable[Copy],
    holders: Iterable[object],
    optimizers: Iterable[Optimizer],
) -> None:
    """Refuse a second network with the same tensors of which nobody knows whether it follows the first.

    A teacher has to stay as it is, an average made by hand would have to be cut along. What is trained is neither.

    Args:
        module, network, holders: as in `averages`.
        copies: the known averages.
        optimizers: of the run.

    Raises:
        GDPError: there is one.
    """
    trained = {id(p) for o in optimizers for g in o.param_groups for p in g["params"] if p.requires_grad}
    known = {id(m) for _, copy in copies for m in copy.modules()}
    originals = [network, *network.children()] if network is module else [network]
    mine = {id(p) for p in network.parameters() if id(p) in trained}
    sizes = [
        found for net in originals if len(found := _sizes(net)) > 2 and any(id(p) in mine for p in net.parameters())
    ]
    for name, twin in [*module.named_modules(), *_outside(module, holders)]:
        parameters = {id(p) for p in twin.parameters()}
        if id(twin) in known or parameters & trained or _sizes(twin) not in sizes:
            continue
        raise GDPError(
            f"{name!r} has the same tensors as the network that is pruned. If it is an average of its weights, hold "
            "it in torch.optim.swa_utils.AveragedModel, and gdp cuts it along. If it stays as it is (a teacher), cut "
            "when training is over: GDPCallback(shrink='end')."
        )


def _outside(module: nn.Module, holders: Iterable[object]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that callbacks hold as attributes and that are no part of the training module."""
    inside = {id(m) for m in module.modules()}
    for holder in holders:
        for attribute, value in vars(holder).items():
            if isinstance(value, nn.Module) and id(value) not in inside:
                yield f"{type(holder).__name__}.{attribute}", value


def _sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}
