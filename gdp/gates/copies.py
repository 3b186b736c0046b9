"""Deep copies of gated layers, wherever they are: marks in the layers tell the gates of them.

A copy that is left alone keeps the gates it was copied with. An average, whose weights somebody goes on changing, has
the gates of the network, as if it had been made of it just now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from gdp.gates.gated_layers import MARK_KEY, WeightView
from gdp.gates.readers import GatedWeight
from gdp.utils import GATE_SUFFIX

SAMPLED = 64  # elements of a weight that say whether it was changed where torch does not count changes (`.data`)


class _Owner(Protocol):
    """Gates that are told of copies of their layers."""

    deep_copies: DeepCopies


class Mark:
    """Lie in the `__dict__` of a gated layer, and of its deep copies.

    Args:
        layer: that holds it.
        original: the layer of the network that it is a copy of; itself in the network.
        owner: returns the gates of the network; None if they are gone.
    """

    def __init__(self, layer: nn.Module, original: nn.Module, owner: Callable[[], _Owner | None]) -> None:
        self._layer: ReferenceType[nn.Module] = ref(layer)
        self._original: ReferenceType[nn.Module] = ref(original)
        self.owner = owner
        self.states: dict[str, _WeightState] = {}  # of the weights of a copy, as they were last

    @property
    def original(self) -> nn.Module | None:
        """The layer of the network; None if it is gone."""
        return self._original()

    @property
    def is_of_copy(self) -> bool:
        """Whether the layer is a copy."""
        return self._layer() is not self._original()

    def __deepcopy__(self, memo: dict[int, Any]) -> Mark | None:
        """Tell the gates of the copy that is being made; `copy.deepcopy` has noted the new object by then."""
        layer, original, owner = self._layer(), self._original(), self.owner()
        copy = None if layer is None else memo.get(id(layer))
        if layer is None or original is None or owner is None or not isinstance(copy, nn.Module):
            return None
        mark = Mark(copy, original, ref(owner))
        gated = {n: p for n, p in layer._parameters.items() if p is not None and n + GATE_SUFFIX in layer._buffers}
        mark.states = {name: _WeightState(weight) for name, weight in gated.items()}
        for state in mark.states.values():
            state.version = 0  # of a new tensor
        owner.deep_copies.add(copy)
        return mark

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Leave nothing in files."""
        return type(None), ()


class _WeightState:
    """Remember what a weight of a copy was like.

    Args:
        weight: of any shape.

    Attributes:
        version: counts the changes in place that torch knows of.
        goes_on: the weight was changed before the last look as well.
    """

    def __init__(self, weight: Tensor) -> None:
        self.version = _version(weight)
        self.goes_on = False
        self._sample = self._sampled(weight)

    @staticmethod
    def _sampled(weight: Tensor) -> Tensor:
        flat = weight.detach().reshape(-1)
        return flat[:: max(1, flat.numel() // SAMPLED)].clone()

    def has_other_numbers(self, weight: Tensor) -> bool:
        """Return whether the weight was changed, whoever has done it."""
        return not torch.equal(self._sampled(weight), self._sample.to(weight))


def _version(weight: Tensor) -> int:
    """Return how often torch has seen a weight change in place; what inference mode made is not changed later."""
    return 0 if weight.is_inference() else weight._version


class TrackedCopies:
    """Copies of the network, or of parts of it, that are gated as it is and cut along: averages of its weights.

    Attributes:
        copies: plain name of the submodule of the network that each is a copy of ("" is the network itself), and the
            copy.
    """

    def __init__(self) -> None:
        self.copies: list[tuple[str, nn.Module]] = []
        self._modules: list[tuple[int, nn.Module]] = []  # place of a reader, and its module in a copy

    def add(self, part: str, copy: nn.Module, twins: Iterable[tuple[int, GatedWeight]]) -> None:
        """Take a copy in.

        Args:
            part: plain name of the submodule that it is a copy of.
            copy: of the submodule.
            twins: gated weights in the copy, each with the place of its original among the readers.
        """
        self.copies.append((part, copy))
        self._modules += [(place, twin.module) for place, twin in twins]

    def readers(self, readers: Sequence[GatedWeight]) -> list[GatedWeight]:
        """Return the gated weights of the copies.

        Args:
            readers: of the network.
        """
        return [replace(readers[place], module=module) for place, module in self._modules]

    def update(self, readers: Sequence[GatedWeight]) -> None:
        """Give the copies the gates that the network has now.

        Args:
            readers: of the network.
        """
        follow((readers[place], replace(readers[place], module=module)) for place, module in self._modules)


class DeepCopies:
    """The deep copies of the gated layers of a network. They are not kept alive."""

    def __init__(self) -> None:
        self._layers: dict[int, ReferenceType[nn.Module]] = {}
        self.tracked: set[int] = set()  # ids of layers that are taken care of by themselves

    def add(self, layer: nn.Module) -> None:
        """Note a copy.

        Args:
            layer: that is being made.
        """
        self._layers[id(layer)] = ref(layer)

    def readers(self, readers: Iterable[GatedWeight]) -> Iterator[tuple[GatedWeight, GatedWeight]]:
        """Yield the gated weights of the network and those of their copies, in pairs.

        Args:
            readers: of the network.
        """
        self._layers = {key: layer for key, layer in self._layers.items() if layer() is not None}
        of_layer: dict[int, list[GatedWeight]] = {}
        for reader in readers if self._layers else ():
            of_layer.setdefault(id(reader.module), []).append(reader)
        for key, layer in self._layers.items():
            copy = layer()
            mark = None if copy is None else vars(copy).get(MARK_KEY)
            if copy is not None and mark is not None and key not in self.tracked:
                for reader in of_layer.get(id(mark.original), ()):
                    twin = replace(reader, module=copy)
                    if twin.is_registered:
                        yield reader, twin

    def activate(self, readers: Iterable[GatedWeight]) -> None:
        """Let the copies compute with their gated weights."""
        view = WeightView()
        for _, twin in self.readers(readers):
            twin.activate(view)

    def changed(self, readers: Iterable[GatedWeight], closely: bool = False) -> list[tuple[GatedWeight, GatedWeight]]:
        """Return the weights in copies that somebody has changed since this was asked last, each with its original.

        Those that have got the gates of now along with the weights are left out, and those that are trained.

        Args:
            readers: of the network.
            closely: look at numbers, too, which waits for the device.
        """
        found = []
        for reader, twin in self.readers(readers):
            weight, states = twin.weight, vars(twin.module)[MARK_KEY].states
            known: _WeightState = states[twin.tensor]
            seen = _version(weight) != known.version
            if not seen and not (closely and known.has_other_numbers(weight)):
                known.goes_on = False
                continue
            states[twin.tensor] = now = _WeightState(weight)
            now.goes_on = True
            fits = twin.gate.shape == reader.gate.shape and weight.grad is None
            if fits and (known.goes_on or not torch.equal(twin.gate, reader.gate.to(twin.gate))):
                found.append((reader, twin))
        return found

    def update(self, readers: Sequence[GatedWeight]) -> None:
        """Give the averages among the copies the gates that the network has now.

        Args:
            readers: of the network.
        """
        follow(self.changed(readers, closely=True))

    def fold(self, readers: Sequence[GatedWeight]) -> None:
        """Make the copies plain for good: multiply their gates into the weights behind them.

        Args:
            readers: of the network, whose own gates may be gone.
        """
        folded: set[tuple[int, int]] = set()
        for _, twin in self.readers(readers):
            weight, gate = twin.weight, twin.gate
            if (id(weight), twin.dim) not in folded and weight.shape[twin.dim] == gate.numel():
                folded.add((id(weight), twin.dim))
                weight.data = weight.data * gate.to(weight)
        self.strip(readers)

    def strip(self, readers: Sequence[GatedWeight]) -> None:
        """Take the gates of the copies away; their weights are not changed."""
        for _, twin in list(self.readers(readers)):
            twin.unregister()
        self._layers = {}


def follow(pairs: Iterable[tuple[GatedWeight, GatedWeight]]) -> None:
    """Give copies the gates that the network has now.

    Args:
        pairs: weights of the network, and of copies.
    """
    for reader, twin in pairs:
        twin.gate.copy_(reader.gate)
