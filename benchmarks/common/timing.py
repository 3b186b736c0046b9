"""Seconds of calls: of one, with its result, and of several that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

WARM_UP = 2  # runs of every call that are not measured
TURN = 0.02  # seconds at least; of short runs, as many are timed together
REPEAT = 0.2  # seconds at least; of short turns, as many make a repeat

Clock = Callable[[], float]


class Seconds(NamedTuple):
    """Seconds that a call took, by the wall clock and of CPU time of the process."""

    wall: float
    cpu: float


def synchronize(device: torch.device | str) -> None:
    """Wait for what a GPU still has to do, so that a clock read afterwards counts it.

    Args:
        device: where the work is done; on a CPU nothing is waited for.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], device: torch.device | str = "cpu") -> tuple[Any, Seconds]:
    """Return the result of a call, and how long it took.

    Args:
        call: what is timed.
        device: where it computes.
    """
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    synchronize(device)
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(
    calls: Sequence[Callable[[], object]], repeats: int, clock: Clock = time.perf_counter, reference: int = 0
) -> list[list[float]]:
    """Return the seconds per run of every call, shape (calls, turns), the calls taking turns back and forth.

    So other load on the machine meets all of them alike, and none always runs on the warm caches of the same other.

    Args:
        calls: on the CPU.
        repeats: each of at least REPEAT seconds, and of the same number of turns.
        clock: `time.perf_counter`, or `time.process_time` for CPU time.
        reference: the call by which it is decided how many runs make a turn, and how many turns a repeat.
    """
    # warm up, and find out how long a run takes
    once = 0.0
    for _ in range(WARM_UP):
        spent = [_seconds_per_run(call, 1, clock) for call in calls]
        once = spent[reference]
    runs = max(1, round(TURN / once))
    turns = repeats * max(1, round(REPEAT / (runs * once)))

    # back and forth
    took: list[list[float]] = [[] for _ in calls]
    for turn in range(turns):
        for i in range(len(calls)) if turn % 2 else reversed(range(len(calls))):
            took[i].append(_seconds_per_run(calls[i], runs, clock))
    return took


def _seconds_per_run(call: Callable[[], object], runs: int, clock: Clock) -> float:
    start = clock()
    for _ in range(runs):
        call()
    return (clock() - start) / runs


def median_per_repeat(turns: Sequence[float], repeats: int) -> list[float]:
    """Return the median of the turns of every repeat.

    Args:
        turns: of one call, as `in_turns` returns them.
        repeats: that it was given.

    >>> median_per_repeat([1.0, 2.0, 6.0, 5.0, 5.0, 9.0], repeats=2)
    [2.0, 5.0]
    """
    size = len(turns) // repeats
    return [median(turns[i : i + size]) for i in range(0, len(turns), size)]
