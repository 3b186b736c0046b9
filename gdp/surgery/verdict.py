"""Judge whether a cut network computes what the gated one does: one verdict for dry runs, for cuts and for removal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from gdp.utils import Difference, finite_weights, in_float64

Pair = tuple[list[Tensor], list[Tensor]]  # what was expected, and what was found


@dataclass(frozen=True)
class Compared:
    """What a gated network and a cut one have computed.

    Attributes:
        outputs: of both.
        inner: activations of both.
    """

    outputs: Pair
    inner: Pair = field(default_factory=lambda: ([], []))

    @cached_property
    def difference(self) -> Difference:
        """The largest difference of any two tensors."""
        return Difference.between(*self._all)

    @property
    def is_exact(self) -> bool:
        """Whether the difference is no more than rounding in the type of the tensors."""
        return self.difference.is_exact(self._all[0])

    @property
    def is_tolerable(self) -> bool:
        """Whether the difference may be rounding, for networks that can't be run in float64."""
        return self.difference.is_tolerable(self._all[0])

    @property
    def _all(self) -> Pair:
        return self.outputs[0] + self.inner[0], self.outputs[1] + self.inner[1]


@dataclass(frozen=True)
class Verdict:
    """Whether two networks compute the same.

    Attributes:
        accepted: they do.
        difference: that has decided it.
    """

    accepted: bool
    difference: Difference

    def __str__(self) -> str:
        return f"{self.difference.absolute:.2e} (relative {self.difference.relative:.2e})"


def judge(model: nn.Module, compare: Callable[[], Compared]) -> Verdict:
    """Judge in the network's own type and, where that can't tell a wrong cut from rounding, in float64.

    In float64, other numbers stand in place of weights that have become NaN or infinite. Where the network can't be run
    in float64, whatever the reason (its forward makes tensors of its own type, the device has no float64 or too little
    memory), a tolerable difference in its own type is accepted.

    Args:
        model: the network; it is left as it was.
        compare: cuts the network, compares, and puts everything back.

    Raises:
        Exception: whatever `compare` raises in the network's own type.
    """
    own = compare()
    if own.is_exact:
        return Verdict(True, own.difference)
    with finite_weights(model):
        precise = _in_float64(model, compare)
        if precise is not None:
            return Verdict(precise.is_exact, precise.difference)
        if not math.isfinite(own.difference.relative):
            own = compare()
    return Verdict(own.is_tolerable, own.difference)


def _in_float64(model: nn.Module, compare: Callable[[], Compared]) -> Compared | None:
    """Compare in float64; return None where the network can't be run so.

    Args:
        model: the network; it is left as it was.
        compare: cuts the network, compares, and puts everything back.
    """
    try:
        with in_float64(model):
            return compare()
    except Exception:  # forward may raise anything
        return None
