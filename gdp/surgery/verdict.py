"""Judge whether a cut network computes what the gated one does: one verdict for dry runs, for cuts and for removal."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from gdp.surgery.row_sets import as_row_sets
from gdp.utils import Difference, finite_weights, in_float64

Pair = tuple[list[Tensor], list[Tensor]]  # what was expected, and what was found


@dataclass(frozen=True)
class Compared:
    """What a gated network and a cut one have computed.

    Attributes:
        outputs: of both.
        inner: means of activations over all positions, of both.
        degenerate: the same of networks with a single channel in every group, in which ties are to be expected: many
            positions compute the same number then, up to rounding.
    """

    outputs: Pair
    inner: Pair = field(default_factory=lambda: ([], []))
    degenerate: Pair = field(default_factory=lambda: ([], []))

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

    def as_sets(self) -> Compared:
        """Return the comparison of outputs as sets of rows, without the degenerate networks.

        Operators that choose positions (topk, argmax, nms) break ties either way, and neither is wrong. That permutes
        rows, which leaves sets and means as they are. Where one of several equal positions is chosen, others may be
        chosen in the cut network; that is accepted of a degenerate network alone.
        """
        pairs = [as_row_sets(a, b) for a, b in zip(*self.outputs, strict=True)]
        return Compared(([a for a, _ in pairs], [b for _, b in pairs]), self.inner)

    @property
    def _all(self) -> Pair:
        parts = (self.outputs, self.inner, self.degenerate)
        return [t for expected, _ in parts for t in expected], [t for _, actual in parts for t in actual]


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


def judge(model: nn.Module, compare: Callable[[], Compared], selects: Collection[str] = ()) -> Verdict:
    """Judge in the network's own type and, where that can't tell a wrong cut from rounding, in float64.

    In float64, other numbers stand in place of weights that have become NaN or infinite. Where the network can't be run
    in float64, whatever the reason (its forward makes tensors of its own type, the device has no float64 or too little
    memory), a tolerable difference in its own type is accepted. What differs even then may be the order in which a
    network chooses positions: outputs are compared as sets of rows, within the same limit.

    Args:
        model: the network; it is left as it was.
        compare: cuts the network, compares, and puts everything back.
        selects: operators of the network that choose positions.

    Raises:
        Exception: whatever `compare` raises in the network's own type.
    """
    own = compare()
    if own.is_exact:
        return Verdict(True, own.difference)
    with finite_weights(model):
        precise = _in_float64(model, compare)
        if precise is None and not math.isfinite(own.difference.relative):
            own = compare()
    found = own if precise is None else precise
    verdict = _verdict(found, precise is None)
    if not verdict.accepted and selects and len(found.outputs[0]) == len(found.outputs[1]):
        as_sets = _verdict(found.as_sets(), precise is None)
        return as_sets if as_sets.accepted else verdict
    return verdict


def _verdict(found: Compared, tolerant: bool) -> Verdict:
    """Return the verdict on a comparison.

    Args:
        found: the comparison.
        tolerant: the network can't be run in float64.
    """
    return Verdict(found.is_tolerable if tolerant else found.is_exact, found.difference)


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
