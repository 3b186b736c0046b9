"""Record how gates, FLOPs and lambda developed, at steps spread evenly over the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError

BINS = 40  # bins of equal width that gate values in [0, 1] are counted in
LIMIT = 128  # entries that are kept; when there are more, every second one is dropped
NUMBERS = ("steps", "flops", "allowed", "lagrange_multiplier")  # attributes that hold one number per step
TABLES = ("values", "open_counts")  # attributes that hold one list of ints per step


@dataclass(eq=False)
class History:
    """Hold what the gates were like at some steps of the window; all lists have one entry per step.

    Attributes:
        steps: optimizer steps since training began.
        flops: fraction of the dense FLOPs (or time) that the open channels had.
        allowed: fraction of the dense FLOPs (or time) that was allowed.
        lagrange_multiplier: lambda, the importance per FLOP that a channel needed in order to stay; importance is given
            as a fraction of that of all open channels, FLOPs as a fraction of the dense ones.
        values: number of gates in each of the BINS bins of gate values.
        open_counts: open channels per group.
        interval: one of so many recorded steps is kept.
    """

    steps: list[int] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)
    lagrange_multiplier: list[float] = field(default_factory=list)
    values: list[list[int]] = field(default_factory=list)
    open_counts: list[list[int]] = field(default_factory=list)
    interval: int = 1
    _seen: int = 0

    def record(
        self, step: int, flops: float, allowed: float, lagrange_multiplier: float, values: Tensor, open_counts: Tensor
    ) -> None:
        """Record a step. The latest one is always the last entry; of the others, one of `interval` is kept.

        Args:
            step: optimizer steps since training began.
            flops: fraction of the dense FLOPs (or time) that the open channels have.
            allowed: fraction of the dense FLOPs (or time) that is allowed.
            lagrange_multiplier: lambda, in the unit of the attribute.
            values: gate values in [0, 1], shape (channels of all groups,).
            open_counts: open channels per group, shape (groups,).
        """
        # drop the last entry if it is of this very step (training ended at a step at which channels were chosen), or if
        # it was there only as the latest one
        again = self.steps[-1:] == [step]
        if again or (self._seen and (self._seen - 1) % self.interval):
            for line in self._lines:
                line.pop()
        self._seen += not again

        # append this step
        bins = torch.histc(values.float().cpu(), BINS, 0.0, 1.0).int().tolist()
        entries = (step, flops, allowed, lagrange_multiplier, bins, open_counts.tolist())
        for line, entry in zip(self._lines, entries, strict=True):
            line.append(entry)

        # when there are too many, drop every second one, but keep the latest
        if len(self.steps) > LIMIT and (self._seen - 1) % self.interval == 0:
            self.interval *= 2
            last = [line[-1] for line in self._lines]
            for line, entry in zip(self._lines, last, strict=True):
                del line[1::2]
                if (self._seen - 1) % self.interval:
                    line.append(entry)

    def of_groups(self, places: Sequence[int]) -> History:
        """Return the history with the open channels of some groups alone.

        Args:
            places: of the groups among all.
        """
        return replace(self, open_counts=[[counts[place] for place in places] for counts in self.open_counts])

    @property
    def _lines(self) -> tuple[list[Any], ...]:
        """All lists that have one entry per kept step, in the order of the arguments of `record`."""
        return self.steps, self.flops, self.allowed, self.lagrange_multiplier, self.values, self.open_counts

    def to_dict(self) -> dict[str, Any]:
        """Return the history as plain lists and numbers."""
        lines = {name: list(getattr(self, name)) for name in NUMBERS}
        tables = {name: [list(line) for line in getattr(self, name)] for name in TABLES}
        return {**lines, **tables, "interval": self.interval, "seen": self._seen}

    @classmethod
    def from_dict(cls, data: Any) -> History:
        """Return the history that `to_dict` wrote.

        Args:
            data: what `to_dict` returned; anything else is refused.

        Raises:
            GDPError: it is not a history.
        """
        try:
            lines: dict[str, Any] = {name: [number + 0 for number in data[name]] for name in NUMBERS}
            tables: dict[str, Any] = {name: torch.as_tensor(data[name]).int().tolist() for name in TABLES}
            interval, seen = int(data["interval"]), int(data["seen"])
            lengths = {len(line) for line in (*lines.values(), *tables.values())}
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise GDPError(f"Expected the history of a pruning, but reading it failed: {error!r}.") from error
        if len(lengths) != 1 or interval < 1:
            raise GDPError(f"Expected the history of a pruning, but its lines have lengths {sorted(lengths)}.")
        return cls(**lines, **tables, interval=interval, _seen=seen)
