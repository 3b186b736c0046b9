"""Several trainings that take turns, step by step, each timed: other load on the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from threading import Condition, Thread
from typing import Any, NamedTuple

import pytorch_lightning as pl

from benchmarks.common.timing import Clock, synchronize

Training = Callable[[pl.Callback], object]


class EnoughError(Exception):
    """Ends a training whose steps have been timed, or one beside which another has failed."""


class Turns:
    """Let one of several threads run at a time.

    Args:
        threads: how many.

    Attributes:
        whose: the number of the thread whose turn it is.
        over: a thread has failed, so that the others end, too.
    """

    def __init__(self, threads: int) -> None:
        self.whose, self.over = 0, False
        self._there = set(range(threads))
        self._changed = Condition()

    def take(self, number: int) -> None:
        """Wait for the turn of a thread.

        Args:
            number: of the thread.

        Raises:
            EnoughError: another one has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.whose == number or self.over)
        if self.over:
            raise EnoughError

    def give(self, leave: bool = False, failed: bool = False) -> None:
        """Let the next thread run; to be called by the one that runs.

        Args:
            leave: this one is not to run again.
            failed: nor is any other.
        """
        with self._changed:
            mine = self.whose
            self._there -= {mine} if leave else set()
            self.over |= failed
            self.whose = min(self._there, key=lambda n: (n <= mine, n), default=-1)
            self._changed.notify_all()


class TimedStep(pl.Callback):
    """Take a turn for every training step, and note its seconds; the first of all callbacks.

    A step lasts from the moment its batch is there until the next one is; what callbacks do with other batches counts.

    Args:
        turns: of all trainings.
        number: of this one.
        steps: after so many the training ends.
        clock: as in `benchmarks.common.timing`.

    Attributes:
        seconds: of every step.
    """

    def __init__(self, turns: Turns, number: int, steps: int, clock: Clock) -> None:
        self.turns, self.number, self.steps, self.clock = turns, number, steps, clock
        self.seconds: list[float] = []
        self._began: float | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        synchronize(pl_module.device)
        if self._began is not None:
            self.seconds.append(self.clock() - self._began)
        if len(self.seconds) == self.steps:
            raise EnoughError
        self.turns.give()
        self.turns.take(self.number)
        self._began = self.clock()


def seconds_in_turns(trainings: Sequence[Training], steps: int, clock: Clock = time.perf_counter) -> list[list[float]]:
    """Return the seconds of every step of several trainings, shape (trainings, steps).

    Args:
        trainings: each runs a Trainer of more than so many steps, with the callback it is given before all others.
        steps: of each.
        clock: as in `benchmarks.common.timing`.

    Raises:
        Exception: what one of the trainings has raised.
    """
    turns = Turns(len(trainings))
    timed = [TimedStep(turns, number, steps, clock) for number in range(len(trainings))]
    errors: list[BaseException] = []

    def run(number: int) -> None:
        failed = False
        try:
            turns.take(number)
            trainings[number](timed[number])
        except EnoughError:
            pass
        except BaseException as error:
            errors.append(error)
            failed = True
        turns.give(leave=True, failed=failed)

    threads = [Thread(target=run, args=(number,), daemon=True) for number in range(len(trainings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [one.seconds for one in timed]


class Ratio(NamedTuple):
    """How many times as long the steps of one training take: median over blocks, and the quartiles around it."""

    median: float
    low: float
    high: float


def ratio(mine: Sequence[float], reference: Sequence[float], block: int) -> Ratio:
    """Return how long steps take against those that were made in turns with them; the first block warms up.

    Args:
        mine: seconds of steps.
        reference: seconds of as many steps.
        block: what is compared are sums of so many steps, after which what a method does now and then repeats.

    >>> ratio([9, 9, 2, 4, 3, 3, 5, 7], [1, 1, 2, 2, 2, 2, 2, 2], block=2)
    Ratio(median=1.5, low=1.5, high=3.0)
    """
    starts = range(block, len(mine) - block + 1, block)
    found = [sum(mine[i : i + block]) / sum(reference[i : i + block]) for i in starts]
    if len(found) == 1:
        return Ratio(*found * 3)
    low, _, high = quantiles(found, n=4, method="inclusive")
    return Ratio(median(found), low, high)
