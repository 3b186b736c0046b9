"""The first training batch, taken for an example input and given back: training sees every batch that there is."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, IterableDataset

from gdp.errors import GDPError
from gdp.lightning.compat import training_data

KEPT_KEY = "_gdp_kept"  # in a loader's __dict__: the batch that was taken from it, and the rest


def first_batch(trainer: Any, undo: ExitStack) -> Any:
    """Return the first training batch, made in the main process; random generators are left as they were.

    What makes the same batches again in every epoch is left to itself. What may be read only once (a generator, a
    stream, a sampler that goes on where it was) gets the batch back: the loader that Lightning asks for next is this
    very one, it yields the batch first, and then goes on.

    Args:
        trainer: of either family, before it has asked for its loaders.
        undo: takes what makes Lightning's next call get the real thing again.

    Raises:
        GDPError: there is no batch.
    """
    data = training_data(trainer)
    with isolate_rng():
        before = _random_states()
        given = data.dataloader()
        combined = type(given).__name__ == "CombinedLoader"  # which there is in both import families
        loader = given if combined else CombinedLoader(given, "max_size_cycle")
        sources = list(loader.flattened)
        loader.flattened = readers = [_Reader(source) for source in sources]
        try:
            batches = [batch for batch, _, _ in _at_most_one(loader)]
            after = _random_states()
        finally:
            loader.flattened = sources
    if not batches:
        raise GDPError(
            "The training loader is empty, so there is no example input to trace the network with. Check the loader, "
            "or set `self.example_input_array` in the LightningModule."
        )
    if any(reader.is_read_once for reader in readers):
        loader.flattened = [reader.refilled(before, after) for reader in readers]
        _hand_on(data, given if combined else loader.iterables, undo)
    return batches[0]


def _at_most_one(loader: Any) -> Iterator[Any]:
    for batch in loader:
        yield batch
        return


def _hand_on(data: Any, loader: Any, undo: ExitStack) -> None:
    """Let the next call for the training loader get this one.

    Args:
        data: whose method `dataloader` Lightning calls.
        loader: what it gets.
        undo: takes what restores the method.
    """

    def dataloader() -> Any:
        vars(data).pop("dataloader", None)
        return loader

    data.dataloader = dataloader
    undo.callback(vars(data).pop, "dataloader", None)


class _Reader:
    """Take the first batch from a source, and keep what is needed to give it back.

    Args:
        source: a loader, or whatever else gives batches.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._batches: list[Any] = []
        self._rest: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        self._rest = _without_drawing_from_generators(self._source)
        for batch in self._rest:
            self._batches.append(batch)
            yield batch

    @property
    def is_read_once(self) -> bool:
        """Whether a batch was taken from the source that it may not give a second time."""
        return bool(self._batches) and _may_be_read_once(self._source)

    def refilled(self, before: list[Any], after: list[Any]) -> Any:
        """Return the source, which now begins with the batch that was taken.

        Args:
            before: the states of random generators before the batch was made.
            after: their states when it had been made; what is in the state of before then goes on from here.
        """
        if not self.is_read_once:
            return self._source
        kept, rest = self._batches, self._rest

        def replay() -> Iterator[Any]:
            _advance_random_states(before, after)
            while kept:
                yield kept.pop(0)
            yield from rest

        try:
            _begin_with(self._source, replay)
        except TypeError:  # a generator, or another object that can't change its class
            return replay()
        return self._source


def _begin_with(source: Any, replay: Callable[[], Iterator[Any]]) -> None:
    """Let the next iteration of a source be another one; it is of its own class again when that begins.

    A source that is told where to go on (`load_state_dict`, as a run is resumed) does so, and not with the other one.

    Args:
        source: what is iterated.
        replay: begins the other iteration.

    Raises:
        TypeError: an object like this can't change its class.
    """
    cls: Any = type(source)

    def as_before(self: Any) -> Callable[[], Iterator[Any]] | None:
        kept: Callable[[], Iterator[Any]] | None = vars(self).pop(KEPT_KEY, None)
        if type(self) is refilled:
            object.__setattr__(self, "__class__", cls)
        return kept

    def iterate(self: Any) -> Iterator[Any]:
        first = as_before(self)
        yield from iter(self) if first is None else first()

    def load_state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        as_before(self)
        return self.load_state_dict(*args, **kwargs)

    members = {"__iter__": iterate, "__module__": cls.__module__}
    if hasattr(cls, "load_state_dict"):
        members["load_state_dict"] = load_state_dict
    refilled = type(cls.__name__, (cls,), members)
    object.__setattr__(source, "__class__", refilled)
    vars(source)[KEPT_KEY] = replay


def _without_drawing_from_generators(source: Any) -> Iterator[Any]:
    """Begin to iterate a source, and put the generators back that its samplers draw from.

    Args:
        source: a loader, or whatever else gives batches.
    """
    own = {id(g): g for g in (getattr(holder, "generator", None) for holder in (source, *_samplers(source)))}
    generators = [(g, g.get_state()) for g in own.values() if isinstance(g, torch.Generator)]
    iterator = iter(source)
    for batch in iterator:
        if not _may_be_read_once(source):
            for generator, state in generators:
                generator.set_state(state)
        generators = []
        yield batch


def _may_be_read_once(source: Any) -> bool:
    """Return whether a second iteration of a source may go on where the first one ended.

    Args:
        source: a loader, or whatever else gives batches.
    """
    if not isinstance(source, DataLoader):
        return hasattr(source, "__next__") or not hasattr(source, "__getitem__")
    if type(source).__iter__ is not DataLoader.__iter__:
        return True
    if isinstance(source.dataset, IterableDataset):
        return source.num_workers == 0  # else workers read copies of it
    return any(not type(sampler).__module__.startswith("torch.utils.data") for sampler in _samplers(source))


def _samplers(source: Any) -> list[Any]:
    """Return what a loader takes the order of its samples from.

    Args:
        source: a loader, or whatever else gives batches.
    """
    of_batches = getattr(source, "batch_sampler", None)
    found = (getattr(source, "sampler", None), of_batches, getattr(of_batches, "sampler", None))
    return [sampler for sampler in found if sampler is not None]


def _random_states() -> list[Any]:
    """Return the states of the random generators of torch, Python and numpy."""
    return [torch.get_rng_state().numpy(), random.getstate(), np.random.get_state()]


def _advance_random_states(before: list[Any], after: list[Any]) -> None:
    """Bring every random generator that is in a state of before to the state that it had after.

    Args:
        before: states of `_random_states`.
        after: the same.
    """
    setters = [lambda state: torch.set_rng_state(torch.from_numpy(state)), random.setstate, np.random.set_state]
    for now, old, new, put in zip(_random_states(), before, after, setters, strict=True):
        if pickle.dumps(now) == pickle.dumps(old):
            put(new)
