"""Check that loss and gradients of a step are finite, on the device and alike in all processes."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gdp.utils import all_ranks


class FiniteGuard:
    """Accumulate `isfinite` of the loss and gradients of every step, and reduce it over all ranks.

    Every rank gets the same answer, so that all of them skip the same gate updates. No number is read from the device
    before `warn`, so that training does not wait for it.
    """

    def __init__(self) -> None:
        self._finite: Tensor | None = None  # bool of shape (): the values of this step so far; None before the first
        self._first_bad_step: Tensor | None = None  # of those since the last warning, shape (); 0 if there was none

    def update(self, values: Tensor) -> None:
        """Take note of whether some values of this step are finite.

        Args:
            values: loss or gradients, of any shape.
        """
        finite = values.detach().isfinite().all()
        self._finite = finite if self._finite is None else self._finite & finite

    def reset(self) -> None:
        """Forget the values of this step."""
        self._finite = None

    def compute(self, step: int, device: torch.device, skipped: bool) -> Tensor:
        """Return whether all values of this step were finite in all processes, and begin the next step.

        Args:
            step: number of this step, from 1; `warn` names the first that was not finite.
            device: for the result.
            skipped: a gradient scaler has left this step out, so it is known not to be finite: the result is False, and
                `warn` does not tell of it.

        Returns:
            Bool of shape (), on the device.
        """
        finite_here = torch.ones((), dtype=torch.bool) if self._finite is None else self._finite
        self._finite, finite = None, all_ranks(finite_here.to(device))
        if skipped:
            return torch.zeros_like(finite)
        first = torch.zeros_like(finite, dtype=torch.long) if self._first_bad_step is None else self._first_bad_step
        self._first_bad_step = torch.where(finite | (first > 0), first, step)
        return finite

    def warn(self) -> None:
        """Warn of the first step since the last warning that was not finite, if there was one."""
        step, self._first_bad_step = 0 if self._first_bad_step is None else int(self._first_bad_step), None
        if step:
            warnings.warn(
                f"gdp: the loss or a gradient of step {step} is not finite, and gates hold still at such steps. If it "
                "goes on, lower the learning rate or clip the gradients.",
                stacklevel=2,
            )
