"""Schedule: the rare options, with defaults that are fractions of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdp.errors import GDPError


@dataclass(frozen=True)
class Schedule:
    """When and how fast gates close. Times are fractions of the run.

    Attributes:
        start: where the window begins; until then gates only watch the gradients.
        end: where the window ends; the target holds from here on, and the rest of the run trains the small network.
        glide: steps a gate takes from open to closed; shorter if the window is short.
        eps: sharpness of the polar gate at the beginning and at the end of the window.
        memory: weight of the past in the running mean of squared gate gradients.
        watch: look at the gradients every so many steps.
        cost: what the budget counts: "flops", or "latency", the time that every layer takes on this device, measured
            on the example input before training; `target_flops` is then the fraction of that time which remains.
    """

    start: float = 0.1
    end: float = 0.6
    glide: int = 50
    eps: tuple[float, float] = (0.1, 1e-4)
    memory: float = 0.95
    watch: int = 2
    cost: Literal["flops", "latency"] = "flops"

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise GDPError(f"Expected 0 <= start < end <= 1 in the schedule, but got {self.start} and {self.end}.")
        if self.cost not in ("flops", "latency"):
            raise GDPError(f"Expected cost to be 'flops' or 'latency', but got {self.cost!r}.")
        if self.glide < 1 or self.watch < 1:
            raise GDPError(f"Expected glide and watch of at least 1 step, but got {self.glide} and {self.watch}.")
        if not 0 < self.eps[1] <= self.eps[0] or not 0 <= self.memory < 1:
            raise GDPError(
                f"Expected 0 < eps end <= eps start and memory in [0, 1), but got {self.eps}, {self.memory}."
            )
