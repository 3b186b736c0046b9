"""Look into passes of a gated network: what its gated layers read, and its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence

from gdp.errors import GDPError
from gdp.gates.gates import Gates
from gdp.gates.readers import GatedWeight
from gdp.gates.seen import Activation, Seen
from gdp.utils import CONV, under_plain_names

LAYERS = (CONV, nn.Linear, nn.RNNBase, nn.RNNCellBase)  # their first input is what their gated weights read


@contextmanager
def observed(gates: Gates, labels: Tensor | None = None) -> Iterator[list[Seen]]:
    """Collect what passes of a network show.

    For a plain loop: `with observed(pruner.gates, y) as seen: net(x)`, and then `pruner.observe(seen[0])`.

    Args:
        gates: of the network.
        labels: classes of the samples, shape (samples,), int64, if they are known.

    Yields:
        A list that gets one `Seen` at the end of every pass.
    """
    found: list[Seen] = []
    with passes_shown(gates, lambda seen: found.append(replace(seen, labels=labels))):
        yield found


@contextmanager
def passes_shown(gates: Gates, end: Callable[[Seen], Any]) -> Iterator[None]:
    """Show every pass of a network to a function, when it ends.

    The hooks for this hang on no module, so that no copy or file that is made meanwhile holds them.

    Args:
        gates: of the network.
        end: takes what a pass has shown, tensors with their graphs, labels being unknown; what it returns, if anything,
            is what the network puts out.
    """
    watch = _Passes(gates, end)
    with ExitStack() as undo:
        undo.callback(register_module_forward_pre_hook(watch.before).remove)
        undo.callback(register_module_forward_hook(watch.after).remove)
        yield


class _Passes:
    """Follow passes of a network by what modules are called with.

    Args:
        gates: of the network.
        end: takes what a pass has shown.
    """

    def __init__(self, gates: Gates, end: Callable[[Seen], Any]) -> None:
        self._network = gates.model
        self._end = end
        self._pass: dict[int, Activation] | None = None  # of layers, by their ids, while there is one
        self._with_gradients = False  # the pass has some
        names = {id(m): name for name, m in under_plain_names(gates.model, gates.model.named_modules()).items()}
        channels = gates.index.split([len(reader.index) for reader in gates.readers])
        self._layers: dict[int, tuple[str, GatedWeight, Tensor]] = {}
        for reader, channel in zip(gates.readers, channels, strict=True):
            if isinstance(reader.module, LAYERS):
                self._layers.setdefault(id(reader.module), (names[id(reader.module)], reader, channel))

    def before(self, module: nn.Module, _: Any) -> None:
        """Begin a pass where the network is called, unless it is only traced.

        Args:
            module: that is called.
        """
        if module is self._network and not torch.jit.is_tracing():
            self._pass, self._with_gradients = {}, torch.is_grad_enabled()

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Note what a gated layer has read; end a pass where the network returns.

        Args:
            module: that was called.
            args: its positional inputs.
            output: what it returns.

        Returns:
            What it is to return instead, if anything.

        Raises:
            GDPError: a gated layer gets its input by name, which hooks for all modules are not told; or it is called
                without gradients in a pass that has some.
        """
        found, layer = self._pass, self._layers.get(id(module))
        if found is None:
            return None
        if layer is not None and id(module) not in found:
            if not args:
                raise GDPError(
                    f"The method looks at what layers read, but {layer[0]} gets its input by name, where that can't be "
                    "seen. Call it by position: layer(x)."
                )
            if self._with_gradients and not torch.is_grad_enabled():
                raise GDPError(
                    f"The method looks at what layers read, but {layer[0]} is called without gradients in a pass that "
                    "has some, as reentrant checkpoints do. Use checkpoint(..., use_reentrant=False)."
                )
            activation = _activation(*layer, args[0])
            if activation is not None:
                found[id(module)] = activation
        if module is not self._network:
            return None
        self._pass = None
        return self._end(Seen(tuple(found.values()), output, None))


def _activation(name: str, reader: GatedWeight, channel: Tensor, value: Any) -> Activation | None:
    """Return what a layer has read; None if its channels can't be told.

    Args:
        name: plain name of the layer.
        reader: its gated weight.
        channel: the channel that every entry along the weight's dimension reads.
        value: the first input of the layer.
    """
    tensor = value.data if isinstance(value, PackedSequence) else value
    if not isinstance(tensor, Tensor):
        return None
    dim = tensor.dim() - reader.weight.dim() + 1
    groups, rest = divmod(tensor.shape[dim], len(channel)) if 0 <= dim < tensor.dim() and len(channel) else (0, 0)
    if rest or not groups:
        return None
    channel = channel.to(tensor.device)
    return Activation(name, tensor, dim, channel.repeat(groups) if groups > 1 else channel)  # as a grouped conv reads
