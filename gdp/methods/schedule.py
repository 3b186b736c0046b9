"""Schedule: what all kinds of gates have in common, in fractions of the run, and the window that comes to in steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from gdp.errors import GDPError


class Window(NamedTuple):
    """The part of a run in which gates close, in optimizer steps.

    Attributes:
        start: the first step of the window.
        fixed: the last step at which channels are chosen.
        end: the step at which the target holds.
        glide: steps a gate takes from open to closed.
        every: channels are chosen, and the temperature is annealed, every so many steps.
    """

    start: int
    last_selection: int
    end: int
    closing: int
    selection_interval: int

    def progress(self, step: int) -> float:
        """How much of the way to the target should have been gone, in [0, 1]."""
        return min(1.0, max(0.0, (step - self.start + 1) / (self.last_selection - self.start + 1)))

    def last_due_step(self, step: int) -> int:
        """The last step up to `step` at which channels were to be chosen, or the temperature to be annealed."""
        looks = (
            self.start + (step - self.start) // self.selection_interval * self.selection_interval,
            self.last_selection,
            self.end,
        )
        return max(look for look in looks if look <= step)


@dataclass(frozen=True)
class Schedule:
    """When and how fast gates close. Times are fractions of the run.

    Attributes:
        start: where the window begins; until then gates only watch the gradients.
        end: where the window ends; the target holds from here on, and the rest of the run trains the small network.
        glide: steps a gate takes from open to closed; shorter if the window is short.
        watch: look at the gradients every so many steps.
        cost: what the budget counts: "flops", or "latency", the time that every layer takes on this device, measured
            on the example input before training; `target_flops` is then the fraction of that time which remains.
    """

    start: float = 0.1
    end: float = 0.6
    closing: int = 50
    gradient_interval: int = 2
    cost: Literal["flops", "latency"] = "flops"

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise GDPError(f"Expected 0 <= start < end <= 1 in the schedule, but got {self.start} and {self.end}.")
        if self.cost not in ("flops", "latency"):
            raise GDPError(f"Expected cost to be 'flops' or 'latency', but got {self.cost!r}.")
        if self.closing < 1 or self.gradient_interval < 1:
            raise GDPError(
                f"Expected glide and watch of at least 1 step, but got {self.closing} and {self.gradient_interval}."
            )

    def window(self, total_steps: int, opens: int = 0) -> Window:
        """The window in a run of so many optimizer steps; where it opens late, half of what is left belongs to it."""
        start, end = max(1, round(self.start * total_steps)), round(self.end * total_steps)
        if opens > start:
            start, end = opens, max(end, opens + (total_steps - opens) // 2)
        end = max(start + 1, end)
        glide = max(1, min(self.closing, (end - start) // 4))
        return Window(start, end - glide, end, glide, max(1, self.closing // 10))
