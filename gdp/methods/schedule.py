"""When gates close: in fractions of the run, and the window that this comes to in optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from gdp.errors import GDPError


class Window(NamedTuple):
    """The part of a run in which gates close, in optimizer steps.

    Attributes:
        start: the first step of the window.
        last_selection: the last step at which channels are chosen.
        end: the step at which the target holds.
        closing: steps a gate takes from open to closed.
        selection_interval: channels are chosen, and the temperature is annealed, every so many steps.
    """

    start: int
    last_selection: int
    end: int
    closing: int
    selection_interval: int

    def budget_progress(self, step: int) -> float:
        """Return how much of the way to the target should have been gone, in [0, 1].

        Args:
            step: optimizer steps since training began.
        """
        return min(1.0, max(0.0, (step - self.start + 1) / (self.last_selection - self.start + 1)))

    def begins_round(self, step: int, rounds: int) -> bool:
        """Return whether one of so many rounds of equal length begins, at a step before the window's end.

        Args:
            step: optimizer steps since training began.
            rounds: in the window; as many as it has steps if these are fewer.
        """
        length = max(1, (self.end - self.start) // rounds)
        return self.start <= step < self.end and (step - self.start) % length == 0

    def last_due_step(self, step: int) -> int:
        """Return the last step at which channels were to be chosen, or the temperature to be annealed.

        Args:
            step: optimizer steps since training began; the step itself may be the one.
        """
        regular = self.start + (step - self.start) // self.selection_interval * self.selection_interval
        return max(due for due in (regular, self.last_selection, self.end) if due <= step)

    def next_due_step(self, step: int) -> int:
        """Return the next step at which channels are to be chosen, or the temperature to be annealed.

        Args:
            step: optimizer steps since training began; the step itself may be the one.
        """
        intervals = max(0, -(-(step - self.start) // self.selection_interval))
        regular = self.start + intervals * self.selection_interval
        return min([regular, *(due for due in (self.last_selection, self.end) if due >= step)])


@dataclass(frozen=True)
class Schedule:
    """When and how fast gates close. Times are fractions of the run.

    Attributes:
        start: where the window begins, in [0, 1); until then gradients are only watched.
        end: where the window ends, in (start, 1]; the target holds from here on, and the rest of the run trains the
            small network.
        closing: optimizer steps a gate takes from open to closed; fewer if the window is short.
        gradient_interval: read the gradients every so many optimizer steps.
        cost: what the budget counts: "flops", or "latency", the time that every layer takes on this device, measured
            on the example input before training; `target_flops` is then the fraction of that time which remains.

    Raises:
        GDPError: an option is out of range.
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
                "Expected closing and gradient_interval of at least 1 step, but got "
                f"{self.closing} and {self.gradient_interval}."
            )

    def window(self, total_steps: int, opens_at: int = 0) -> Window:
        """Return the window in a run.

        Args:
            total_steps: optimizer steps in the whole run.
            opens_at: the window does not open before this step; where it opens late, half of what is left of the run
                belongs to it.
        """
        start, end = max(1, round(self.start * total_steps)), round(self.end * total_steps)
        if opens_at > start:
            start, end = opens_at, max(end, opens_at + (total_steps - opens_at) // 2)
        end = max(start + 1, end)
        closing = max(1, min(self.closing, (end - start) // 4))
        return Window(start, end - closing, end, closing, max(1, self.closing // 10))
