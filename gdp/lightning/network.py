"""The network in a training module, and the inputs that it gets to see."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gdp.errors import GDPError
from gdp.lightning.compat import was_compiled
from gdp.utils import Inputs, get_module, in_mode, inputs_by_name, is_compiled, match_weights, under_plain_names, unwrap

Candidate = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of forward


def find_network(module: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """Return name and network: the named submodule, else the only child with weights, else the module itself.

    A name may leave out the first part: `backbone` is found as `model.backbone`, if nothing else has that name.

    Args:
        module: the training module.
        name: as the user gave it.

    Returns:
        Plain name, and the network without a wrapper.

    Raises:
        GDPError: there is no submodule of that name.
    """
    if name is None:
        with_weights = [(n, unwrap(c)) for n, c in module.named_children() if any(True for _ in c.parameters())]
        children = list({id(c): (n, c) for n, c in reversed(with_weights)}.values())  # the first name of each
        own = any(True for _ in module.parameters(recurse=False))
        callable_alone = len(children) == 1 and type(children[0][1]).forward is not nn.Module.forward
        name = children[0][0] if callable_alone and not own else ""
    written = under_plain_names(module, ((n, n) for n, _ in module.named_modules(remove_duplicate=False)))
    name = next((plain for plain, raw in written.items() if raw == name), name)
    names = [name] + [f"{child}.{name}" for child, _ in module.named_children() if name]
    found = [n for n in names if _has(module, n)]
    if not found or (found[0] != name and len(found) > 1):
        some = ", ".join(repr(n) for n, _ in module.named_modules() if n and n.count(".") < 2)
        raise GDPError(
            f"{type(module).__name__} has no submodule {name!r} for GDPCallback(module=...). It has: {some or 'none'}."
        )
    return found[0], get_module(module, found[0])


def _has(module: nn.Module, name: str) -> bool:
    try:
        get_module(module, name)
    except AttributeError:
        return False
    return True


def is_compiled_around(module: nn.Module, network: nn.Module) -> bool:
    """Return whether a network is compiled, in part, as a whole or as a part of something larger.

    Args:
        module: the training module.
        network: the network in it.
    """
    inside = {id(m) for m in network.modules()}
    compiled = [m for m in module.modules() if is_compiled(m)]
    return was_compiled(module) or any(id(m) in inside or any(n is network for n in m.modules()) for m in compiled)


def example_inputs(module: nn.Module, name: str, array: Any, batch: Any) -> Inputs:
    """Return positional inputs of the network, from an example for `module.forward` or from one sample of a batch.

    Whatever the module's forward hands to the network is what counts; where the module has no forward of its own, the
    batch goes to the modules between the two, and last to the network directly.

    Args:
        module: the training module.
        name: plain name of the network in it.
        array: its `example_input_array`; None if it has none.
        batch: the first training batch, if there is no array.

    Raises:
        GDPError: nothing in the batch is accepted by the network.
    """
    error: Exception | None = None
    if any(t.is_meta for t in tree_leaves(array) if isinstance(t, Tensor)):
        raise GDPError(
            f"Expected `example_input_array` of {type(module).__name__} to hold numbers, but it is on the device "
            "'meta'. Make it on the CPU; it is moved to where the network is."
        )
    path = name.split(".") if name else []
    around = [module, *(get_module(module, ".".join(path[:n])) for n in range(1, len(path) + 1))]
    network = around[-1]
    for args, kwargs in _from_array(array) if array is not None else _from_batch(_one_sample(batch), module, network):
        for receiver in around:
            try:
                seen = _inputs_seen(receiver, network, args, kwargs)
            except Exception as failed:  # forward may raise anything on what is not its input
                if not isinstance(failed, NotImplementedError):
                    error = failed
                continue
            if seen is not None:
                return seen
    raise GDPError(
        f"No example input for {type(network).__name__} was found in "
        f"{'example_input_array' if array is not None else 'the first training batch, ' + _describe(batch)}"
        f"{f' ({type(error).__name__}: {str(error).splitlines()[0]})' if error is not None and str(error) else ''}. "
        f"Set `self.example_input_array` in {type(module).__name__} to what its forward takes, or give gdp what the "
        "network takes: GDPCallback(example=...)."
    ) from error


def _inputs_seen(
    receiver: nn.Module, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Inputs | None:
    seen: list[Inputs] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(inputs_by_name(network, args, kwargs))

    args, kwargs = match_weights(receiver, (args, kwargs))
    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with in_mode(receiver, training=False), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            receiver(*args, **kwargs)
    finally:
        hook.remove()
    return tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, seen[0]) if seen else None


def _from_array(array: Any) -> Iterator[Candidate]:
    if isinstance(array, Mapping):
        yield (), dict(array)
    elif isinstance(array, tuple):
        yield array, {}
    yield (array,), {}


def _from_batch(batch: Any, module: nn.Module, network: nn.Module) -> Iterator[Candidate]:
    """Return what of a batch may be the input, the most usual first.

    Args:
        batch: one sample of it.
        module: the training module.
        network: the network in it.
    """
    if isinstance(batch, Mapping):
        for receiver in (module, network):
            wanted = inspect.signature(receiver.forward).parameters
            named = {k: v for k, v in batch.items() if k in wanted}
            needed = {k: v for k, v in named.items() if wanted[k].default is inspect.Parameter.empty}
            yield from (((), some) for some in (needed, named) if some)
        yield from (
            ((v,), {}) for v in batch.values() if isinstance(v, Tensor) and v.is_floating_point() and v.dim() > 1
        )
        for part in batch.values():  # batches of several loaders
            if isinstance(part, Mapping | list | tuple):
                yield from _from_batch(part, module, network)
        yield (batch,), {}
    elif isinstance(batch, list | tuple):
        if len(batch) and isinstance(batch[0], list | tuple):
            yield tuple(batch[0]), {}
        if len(batch):
            yield (batch[0],), {}
        if len(batch) and isinstance(batch[0], Mapping | list | tuple):
            yield from _from_batch(batch[0], module, network)
        yield from ((tuple(batch[:n]), {}) for n in range(len(batch), 1, -1))
        yield (batch,), {}
    else:
        yield (batch,), {}


def _one_sample(batch: Any) -> Any:
    """Return the first sample of a batch; leaves of another length than the first tensor stay as they are.

    Args:
        batch: nested lists, tuples and dicts of tensors.
    """
    if isinstance(batch, list | tuple) and batch and _are_images(batch[0]):  # of any size, as detectors take them
        return [part[:1] if isinstance(part, list | tuple) else part for part in batch]
    tensors = [t for t in tree_leaves(batch) if isinstance(t, Tensor) and t.dim()]
    size = tensors[0].shape[0] if tensors else 0

    def first(value: Any) -> Any:
        return value[:1] if isinstance(value, Tensor) and value.dim() and value.shape[0] == size else value

    return tree_map(first, batch)


def _are_images(part: Any) -> bool:
    """Return whether this is a list of single pictures."""
    listed = isinstance(part, list | tuple) and len(part) > 0
    return listed and all(isinstance(t, Tensor) and t.dim() == 3 and t.shape[0] in (1, 3) for t in part)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return "a dict of " + ", ".join(f"{k}: {_describe(v)}" for k, v in batch.items())
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of " + ", ".join(_describe(v) for v in batch)
    return f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
