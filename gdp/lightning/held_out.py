"""Held-out batches in a Lightning run: data that the gates learn on and the weights do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
)

from gdp.errors import GDPError
from gdp.lightning.compat import before_batch_transfer, training_data, validation_data
from gdp.lightning.protected_step import protected_loss
from gdp.lightning.step_counter import gradient_scale
from gdp.methods import LearningBatches, PruningMethod
from gdp.pruning import Pruner

SEED = 0  # of the split, which is the same in every process and in a resumed run


def make_held_out(trainer: Any, module: Any, method: PruningMethod) -> HeldOutBatches | None:
    """Return what hands a pruner its held-out batches; None if its method learns from none.

    Args:
        trainer: of either family, before it has asked for its loaders.
        module: the LightningModule.
        method: of the run.

    Raises:
        GDPError: the module optimizes by itself, so its `training_step` can't be asked for a loss alone.
    """
    batches = method.learns_from
    if batches is None or batches.source == "train":
        return None
    if not module.automatic_optimization:
        raise GDPError(
            f"Gates that learn on held-out batches ask {type(module).__name__}.training_step for a loss, but with "
            "manual optimization it trains the weights as well. Use method='polar', or automatic optimization."
        )
    return HeldOutBatches(trainer, batches)


@contextmanager
def refusal_first(held_out: HeldOutBatches | None) -> Iterator[None]:
    """Raise that data can't be split, if that is so, in place of an error that comes of it.

    Args:
        held_out: of the run; None if its method learns from none.
    """
    try:
        yield
    except GDPError:
        if held_out is not None and held_out.refusal is not None:
            raise held_out.refusal from None
        raise


class HeldOutBatches:
    """Hand a pruner the losses of held-out batches.

    A fraction of the training data is taken out of the loader of the weights, or the validation data is used. Which
    samples make a batch depends on the step alone, so a resumed run goes on with those an uninterrupted one has.

    Args:
        trainer: a Trainer of either import family, before it has asked for its loaders.
        batches: which, and how often.

    Attributes:
        refusal: why the training data can't be split, once they were asked for; None if they can.
    """

    def __init__(self, trainer: Any, batches: LearningBatches) -> None:
        self._source, self._every = batches
        self._iterator: Iterator[Any] | None = None
        self._patched: Any = None
        self._loader: Any = None  # all of the data; not asked for again, as it may be made of other data then
        self._next = -1  # what the iterator yields next
        self.refusal: GDPError | None = None
        if self._source == "val":
            self._original = validation_data(trainer).dataloader
        else:
            data = training_data(trainer)
            self._original = data.dataloader
            data.dataloader = self._training_loader
            self._patched = data

    def close(self) -> None:
        """Give the next run all of its data again, and end worker processes."""
        self.stop()
        if self._patched is not None:
            vars(self._patched).pop("dataloader", None)
            self._patched = None

    def stop(self) -> None:
        """End worker processes, since no further batch is needed."""
        self._iterator = None

    def check(self, trainer: Any) -> None:
        """Check that the data can be had and split, once Lightning knows its loaders.

        Args:
            trainer: of either family.

        Raises:
            GDPError: the way out is in its text.
        """
        if self.refusal is not None:
            raise self.refusal
        if self._source == "val" and not validation_data(trainer).is_defined():
            raise GDPError(
                "Gates were to learn on the validation data, and there is none. Give trainer.fit a validation "
                "loader, or hold out training data: held_out=0.2 of the method."
            )
        samples, _ = self._samples(trainer)
        if not samples:
            data = "validation data" if self._source == "val" else "held-out data"
            raise GDPError(
                f"Expected {data} for the gates in every process, but process {trainer.global_rank} of "
                f"{trainer.world_size} has none. Hold out more training data: held_out=0.2 of the method."
            )

    def check_loss(self, module: Any, pruner: Pruner, outputs: Any) -> None:
        """Check that the gates will get a loss.

        Args:
            module: the LightningModule.
            pruner: of the run.
            outputs: of `training_step`, at any step.

        Raises:
            GDPError: there was none at the first step.
        """
        if pruner.steps == 1 and not outputs:
            raise GDPError(
                f"These gates learn from what {type(module).__name__}.training_step returns, and need a loss, "
                "but got none at the first step. Return the loss, or use method='polar'."
            )

    def step(self, trainer: Any, module: Any, pruner: Pruner) -> None:
        """Let the gates learn from the next batch if it is time to, by the module's own `training_step`.

        Args:
            trainer: of either family.
            module: the LightningModule.
            pruner: of the run.

        Raises:
            GDPError: the data can't be split.
        """
        if pruner.done:
            self.stop()
        if not pruner.wants_held_out:
            return
        batch = trainer.precision_plugin.convert_input(self._batch(trainer, pruner.steps // self._every))
        batch = trainer.strategy.batch_to_device(before_batch_transfer(module, batch))
        scale = gradient_scale(trainer)
        with protected_loss(trainer, module, batch) as loss:
            if loss is not None:  # as in training, a step may be left out
                pruner.learn(loss * scale, lambda gradient: trainer.strategy.reduce(gradient / scale, reduce_op="mean"))

    def _batch(self, trainer: Any, number: int) -> Any:
        if self._iterator is None or self._next != number:
            mine, loader = self._samples(trainer)
            batches = _EndlessBatchSampler(len(mine), min(loader.batch_size, len(mine)), number)
            self._iterator = iter(DataLoader(Subset(loader.dataset, mine), batch_sampler=batches, **_options(loader)))
        self._next = number + 1
        return next(self._iterator)

    def _samples(self, trainer: Any) -> tuple[list[int], Any]:
        """Return the samples that are held out for this process, and the loader they are taken from."""
        if self._loader is None:
            self._loader = _check_splittable(self._original())
        loader = self._loader
        held = range(len(loader.dataset)) if self._source == "val" else self._parts(loader)[0]
        return list(held)[trainer.global_rank :: trainer.world_size], loader

    def _parts(self, loader: Any) -> tuple[list[int], list[int]]:
        """Return the samples that are held out, and the rest."""
        order = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(SEED)).tolist()
        held = max(1, round(float(self._source) * len(order)))
        return order[:held], sorted(order[held:])

    def _training_loader(self) -> Any:
        """Return the training loader without what is held out; all of it if it can't be split.

        Lightning leaves torch's DataLoader changed where a request for a loader raises, so the refusal waits.
        """
        loader = self._original()
        try:
            return self._rest(_check_splittable(loader))
        except GDPError as refusal:
            self.refusal = refusal
            return loader

    def _rest(self, loader: Any) -> DataLoader[Any]:
        """Return a loader of what is not held out of this one.

        Args:
            loader: of all data.

        Raises:
            GDPError: nothing is left for the weights.
        """
        self._loader = loader
        held, rest = self._parts(loader)
        if len(rest) < (loader.batch_size if loader.drop_last else 1):
            raise GDPError(
                f"Expected training data for at least one batch beside the {len(held)} of {len(held) + len(rest)} "
                "samples that are held out for the gates. Hold out fewer: held_out=0.1 of the method."
            )
        return DataLoader(
            Subset(loader.dataset, rest),
            loader.batch_size,
            shuffle=isinstance(loader.sampler, RandomSampler),
            drop_last=loader.drop_last,
            generator=loader.generator or getattr(loader.sampler, "generator", None),
            persistent_workers=loader.persistent_workers,
            **_options(loader),
        )


class _EndlessBatchSampler(Sampler[list[int]]):
    """Yield full batches of samples, in a new order whenever all have had their turn, without an end.

    Args:
        samples: that there are.
        batch: samples per batch.
        first: the number of the batch to begin with.
    """

    def __init__(self, samples: int, batch: int, first: int) -> None:
        self.samples, self.batch, self.first = samples, batch, first

    def __iter__(self) -> Iterator[list[int]]:
        per_round, number = self.samples // self.batch, self.first
        while True:
            turn = torch.Generator().manual_seed(number // per_round)
            order = torch.randperm(self.samples, generator=turn).tolist()
            for place in range(number % per_round, per_round):
                yield order[place * self.batch : (place + 1) * self.batch]
                number += 1


def _check_splittable(loader: Any) -> Any:
    """Return the loader if it can be split.

    Args:
        loader: what the user calls the loader.

    Raises:
        GDPError: it can't.
    """
    can_be_split = (
        type(loader) is DataLoader
        and loader.batch_size is not None
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader.sampler) in (RandomSampler, SequentialSampler)
        and not getattr(loader.sampler, "replacement", False)
        and len(loader.sampler) == len(loader.dataset)  # type: ignore[arg-type]
        and type(loader.batch_sampler) is BatchSampler
    )
    if not can_be_split:
        raise GDPError(
            "The method needs data that is held out, and gdp can take it from one torch DataLoader with a data set "
            f"of known length and torch's own sampling, but this is {_described(loader)}. Hold out validation data: "
            "held_out='val' of the method, with such a loader there, or use method='polar'."
        )
    return loader


def _described(loader: Any) -> str:
    if not isinstance(loader, DataLoader):
        return f"a {type(loader).__name__}"
    return f"a {type(loader).__name__} of {type(loader.dataset).__name__} with {type(loader.sampler).__name__}"


def _options(loader: DataLoader[Any]) -> dict[str, Any]:
    names = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
    return {name: getattr(loader, name) for name in (*names, "prefetch_factor")}
