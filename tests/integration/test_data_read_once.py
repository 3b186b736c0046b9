"""Data that can be read only once: training sees every batch, in order, as it would without gdp."""

from __future__ import annotations

import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers.training import Lit, images, loader, trainer
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, Sampler

from gdp import GDPCallback, GDPError

BATCHES = 9


def batches(n: int = BATCHES, noise: bool = False):
    """A generator of different batches; noise is drawn from all three random generators."""
    x, y = images(8).tensors
    for i in range(n):
        drawn = torch.rand(()) + random.random() + float(np.random.rand()) if noise else 0.0
        yield x + i + drawn, y


class Samples(IterableDataset):
    """Samples of one stream, which every iteration goes on with."""

    def __init__(self, same_iterator: bool) -> None:
        x, y = images(BATCHES * 8).tensors
        self.stream, self.same_iterator = (
            iter([*zip(x + torch.arange(len(x)).view(-1, 1, 1, 1), y, strict=True)]),
            same_iterator,
        )

    def __iter__(self):
        return self.stream if self.same_iterator else (sample for sample in self.stream)


class Reader:
    """An iterator with attributes of its own, which begins anew whenever it is asked to."""

    def __init__(self) -> None:
        self.number = 0

    def __iter__(self):
        self.number = 0
        return self

    def __len__(self) -> int:
        return 3

    def __next__(self):
        self.number += 1
        if self.number > len(self):
            raise StopIteration
        x, y = images(8).tensors
        return x + self.number, y


class Endless(DataLoader):
    """A loader that goes through its samples without ever beginning anew."""

    def __iter__(self):
        self.running = self.running if "running" in vars(self) else self._all()
        return (next(self.running) for _ in range(2))

    def _all(self):
        while True:
            yield from super().__iter__()


class Onwards(Sampler):
    """A sampler that goes on where it was."""

    def __init__(self) -> None:
        self.next = 0

    def __len__(self) -> int:
        return 24

    def __iter__(self):
        for _ in range(len(self)):
            self.next = (self.next + 1) % 64
            yield self.next


def tensors(batch) -> list[torch.Tensor]:
    """All tensors of a batch of any nesting: pictures and labels in turns."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [t for part in (batch.values() if isinstance(batch, dict) else batch) for t in tensors(part)]


class Noting(Lit):
    """Notes the batches, and may have a loader of its own."""

    def __init__(self, make_loader=None) -> None:
        super().__init__()
        self.seen, self.make_loader = [], make_loader

    def train_dataloader(self):
        return self.make_loader()

    def forward(self, batch):
        return self.net(tensors(batch)[0])

    def training_step(self, batch, batch_idx):
        self.seen += [t.clone() for t in tensors(batch)]
        return self.loss(self(batch), tensors(batch)[1])


def from_one_source():
    source = batches(noise=True)
    return lambda: source


def from_one_queue():
    queue = [*batches()]

    def read():
        while queue:
            yield queue.pop(0)

    return lambda: read()


def endless():
    made = Endless(images(32), 8, shuffle=True)
    return lambda: made


SOURCES = {
    "a generator": lambda: batches(),
    "a generator that draws noise": lambda: batches(noise=True),
    "an iterator over a list": lambda: iter([*batches()]),
    "a data set that returns its one iterator": lambda: DataLoader(Samples(True), 8),
    "a data set whose iterators share a stream": lambda: DataLoader(Samples(False), 8, drop_last=True),
    "an object that begins anew": Reader,
    "a loader that never begins anew": lambda: Endless(images(32), 8, shuffle=True),
    "a sampler that goes on": lambda: DataLoader(images(64), 8, sampler=Onwards()),
    "a batch sampler that goes on": lambda: DataLoader(
        images(64), batch_sampler=torch.utils.data.BatchSampler(Onwards(), 8, False)
    ),
    "a generator of shuffling": lambda: loader(shuffle=True, generator=torch.Generator().manual_seed(3)),
    "a usual loader": lambda: loader(shuffle=True),
    "a list": lambda: [batches(), DataLoader(images(32), 16)],
    "a dict": lambda: {"labelled": loader(32), "stream": DataLoader(Samples(False), 8), "list": iter([*batches(4)])},
    "a CombinedLoader": lambda: CombinedLoader([batches(), batches(4)], "min_size"),
    "a CombinedLoader to its longest": lambda: CombinedLoader({"a": batches(), "b": Reader()}, "max_size_cycle"),
}
HOOKS = {
    "one generator": from_one_source,
    "generators that share a queue": from_one_queue,
    "a loader that never begins anew": endless,
    "a new generator every time": lambda: lambda: batches(noise=True),
}


def seen(data, pruned: bool, **kw) -> list[torch.Tensor]:
    """The batches of a run."""
    pl.seed_everything(0)
    given = data()
    lit = Noting(given if callable(given) else None)
    callbacks = [GDPCallback(0.6)] if pruned else []
    run = trainer(*callbacks, epochs=4, max_steps=BATCHES, **kw)
    run.fit(lit, *([] if callable(given) else [given]))
    if pruned:
        assert callbacks[0].report.remaining <= 0.6
        assert "dataloader" not in vars(run.fit_loop._data_source)
        assert callable(given) or type(given) is type(data())
    return lit.seen


def assert_same_batches(data, **kw) -> None:
    with_gdp, without = seen(data, True, **kw), seen(data, False, **kw)
    assert len(without) > 3 and len(with_gdp) == len(without)
    assert all(torch.equal(one, other) for one, other in zip(with_gdp, without, strict=True))


@pytest.mark.parametrize("data", SOURCES.values(), ids=SOURCES)
def test_training_sees_the_batches_that_it_would_see_without_gdp(data):
    assert_same_batches(data)


@pytest.mark.parametrize("data", HOOKS.values(), ids=HOOKS)
def test_what_train_dataloader_returns_is_read_from_its_beginning(data):
    assert_same_batches(data)


def test_loaders_that_are_made_anew_every_epoch_begin_with_their_first_batch():
    assert_same_batches(lambda: lambda: batches(4), reload_dataloaders_every_n_epochs=1)


def test_a_loader_gives_its_batch_back_when_the_run_is_refused():
    data = DataLoader(Samples(False), 8)
    with pytest.raises(GDPError, match="target"):
        trainer(GDPCallback(0.0001), max_steps=9).fit(Noting(), data)
    first = next(iter(data))[0]
    assert torch.equal(first, torch.stack([x for x, _ in Samples(False).stream])[:8]) and type(data) is DataLoader
