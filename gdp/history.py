"""History: how the gates came to be what they are, at steps spread evenly over the window."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError

BINS = 40  # of a gate's value, from 0 to 1
LIMIT = 400  # moments that are kept; when there are more, every second goes


@dataclass(eq=False)
class History:
    """What the gates were like at some steps of the window.

    Attributes:
        steps: optimizer steps since training began.
        flops: the fraction of the dense FLOPs (or time) of the channels that were open.
        allowed: the fraction that was allowed.
        multiplier: lambda.
        values: gates per bin of their value, each of shape (BINS,).
        opened: open channels per group, each of shape (groups,).
        every: of so many moments one is kept.
    """

    steps: list[int] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)
    multiplier: list[float] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    opened: list[Tensor] = field(default_factory=list)
    every: int = 1
    _seen: int = 0

    def record(
        self, step: int, flops: float, allowed: float, multiplier: float, values: Tensor, opened: Tensor
    ) -> None:
        """Note a moment, if it is one of those that are kept."""
        self._seen += 1
        if (self._seen - 1) % self.every:
            return
        bins = torch.histc(values.float(), BINS, 0.0, 1.0).int().cpu()
        for line, entry in zip(self._lines, (step, flops, allowed, multiplier, bins, opened.int().cpu()), strict=True):
            line.append(entry)
        if len(self.steps) > LIMIT:
            self.every *= 2
            for line in self._lines:
                del line[1::2]

    @property
    def _lines(self) -> tuple[list[Any], ...]:
        return self.steps, self.flops, self.allowed, self.multiplier, self.values, self.opened

    def to_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        numbers = {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in NUMBERS}
        tables = {name: torch.stack(getattr(self, name)) if self.steps else torch.zeros(0, 0) for name in TABLES}
        return {"steps": torch.tensor(self.steps), **numbers, **tables, "every": self.every, "seen": self._seen}

    @classmethod
    def from_dict(cls, data: Any) -> History:
        """Read back what `to_dict` wrote.

        Raises:
            GDPError: it is not a history.
        """
        try:
            lines = {name: data[name].tolist() for name in ("steps", *NUMBERS)}
            tables = {name: list(data[name]) for name in TABLES}
            return cls(**lines, **tables, every=int(data["every"]), _seen=int(data["seen"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GDPError(f"Expected the history of a pruning, but reading it failed: {error!r}.") from error


NUMBERS = ("flops", "allowed", "multiplier")
TABLES = ("values", "opened")
