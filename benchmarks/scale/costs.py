"""What is measured on a network: seconds of every part of gdp, first and median."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.common.timing import Clock

PATIENCE = 10.0  # seconds after which a figure is not measured once more
TARGET, ALLOWED = 0.4, (0.9, 0.6, 0.4)
STARTUP = ("torch.export", "trace", "dry run", "gates")  # trace holds an export of its own
RUNNING = ("budget", "step", "watch")


@dataclass
class Costs:
    """Hold what was measured on one network.

    Attributes:
        name: of the network.
        clock: by which calls are timed.
        convs: their number.
        inner: channels inside each block of a chain; 0: the network is no chain.
        stream: channels of the residual stream of a chain.
        weights: elements of all parameters.
        groups: channel groups.
        channels: of all groups.
        first: seconds of the first call of every part.
        median: seconds of its later calls.
        kept: fraction of the FLOPs that a choice for the target keeps, by what importance is drawn for.
    """

    name: str
    clock: Clock
    convs: int
    inner: int
    stream: int
    weights: int
    groups: int = 0
    channels: int = 0
    first: dict[str, float] = field(default_factory=dict)
    median: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)

    def take(self, what: str, call: Callable[[], object], repeats: int, after: Callable[[], object] = int) -> None:
        """Time a call; its first time counts as a warm-up if there are others.

        Args:
            what: name of the figure.
            call: what is timed.
            repeats: calls after the first one.
            after: is called after each, and not timed.
        """
        times: list[float] = []
        while len(times) <= repeats and sum(times) < PATIENCE:
            start = self.clock()
            call()
            times.append(self.clock() - start)
            after()
        self.first[what], self.median[what] = times[0], statistics.median(times[1:] or times)

    def startup(self) -> float:
        """Return the seconds before the first training step of a process that has done nothing else yet."""
        return sum(self.first[what] for what in STARTUP[1:])


def budgets() -> list[tuple[str, float]]:
    """Return what importance is drawn for ("channel" or "flop") and what is allowed, for every budget step measured."""
    return [(drawn_for, allowed) for drawn_for in ("channel", "flop") for allowed in ALLOWED]
