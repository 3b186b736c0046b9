"""History: how the gates came to be what they are, at steps spread evenly over the window."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError

BINS = 40  # of a gate's value, from 0 to 1
LIMIT = 128  # moments that are kept; when there are more, every second goes


@dataclass(eq=False)
class History:
    """What the gates were like at some steps of the window.

    Attributes:
        steps: optimizer steps since training began.
        flops: the fraction of the dense FLOPs (or time) of the channels that were open.
        allowed: the fraction that was allowed.
        multiplier: lambda.
        values: gates per bin of their value, BINS of them.
        opened: open channels per group.
        every: of so many moments one is kept.
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
        """Note a moment; the last one always stands at the end, others only if they are among those that are kept."""
        again = self.steps[-1:] == [step]  # training ended at a step at which channels were chosen
        if again or (
            self._seen and (self._seen - 1) % self.interval
        ):  # or the moment before was there as the last only
            for line in self._lines:
                line.pop()
        self._seen += not again
        bins = torch.histc(values.float().cpu(), BINS, 0.0, 1.0).int().tolist()
        for line, entry in zip(
            self._lines, (step, flops, allowed, lagrange_multiplier, bins, open_counts.tolist()), strict=True
        ):
            line.append(entry)
        if len(self.steps) > LIMIT and (self._seen - 1) % self.interval == 0:
            self.interval *= 2
            last = [line[-1] for line in self._lines]
            for line, entry in zip(self._lines, last, strict=True):
                del line[1::2]
                if (self._seen - 1) % self.interval:
                    line.append(entry)

    @property
    def _lines(self) -> tuple[list[Any], ...]:
        return self.steps, self.flops, self.allowed, self.lagrange_multiplier, self.values, self.open_counts

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers."""
        lines = {name: list(getattr(self, name)) for name in NUMBERS}
        tables = {name: [list(line) for line in getattr(self, name)] for name in TABLES}
        return {**lines, **tables, "interval": self.interval, "seen": self._seen}

    @classmethod
    def from_dict(cls, data: Any) -> History:
        """Read back what `to_dict` wrote.

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


NUMBERS = ("steps", "flops", "allowed", "lagrange_multiplier")
TABLES = ("values", "open_counts")
