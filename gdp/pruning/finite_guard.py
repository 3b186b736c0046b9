"""Vigil: did loss and gradients of a step stay finite? Answered on the device, and alike in all processes."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gdp.utils import all_ranks


class FiniteGuard:
    """Watches over the steps of a run; reads no number from the device before it warns."""

    def __init__(self) -> None:
        self._sound: Tensor | None = None  # of the current step, as far as it was seen
        self._first: Tensor | None = None  # the first step since the last warning that was not sound; 0 if none

    def update(self, values: Tensor) -> None:
        """Note whether all of these values are finite."""
        sound = values.detach().isfinite().all()
        self._sound = sound if self._sound is None else self._sound & sound

    def reset(self) -> None:
        """The current step does not matter."""
        self._sound = None

    def compute(self, step: int, device: torch.device, expected: bool) -> Tensor:
        """Whether this step, which ends now, was sound in all processes; one bool on `device`.

        If it was not, and that was not `expected`, the next `warn` says so.
        """
        seen = torch.ones((), dtype=torch.bool) if self._sound is None else self._sound
        self._sound, sound = None, all_ranks(seen.to(device))
        if expected:
            return torch.zeros_like(sound)
        first = torch.zeros_like(sound, dtype=torch.long) if self._first is None else self._first
        self._first = torch.where(sound | (first > 0), first, step)
        return sound

    def warn(self) -> None:
        """Say which step was not sound, if there was one."""
        step, self._first = 0 if self._first is None else int(self._first), None
        if step:
            warnings.warn(
                f"gdp: the loss or a gradient of step {step} is not finite, and gates hold still at such steps. If it "
                "goes on, lower the learning rate or clip the gradients.",
                stacklevel=2,
            )
