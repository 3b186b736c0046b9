"""Do two networks compute the same? Differences of outputs, and float64 where the network's own type can't decide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EXACT = 1e-5  # relative; what float32 leaves of equal computations in another order
EXACT_IN_DOUBLE = 1e-9


@dataclass(frozen=True)
class Difference:
    """Largest difference between two lists of outputs, absolute and relative to the largest output of each."""

    absolute: float
    relative: float

    @classmethod
    def between(cls, expected: list[Tensor], actual: list[Tensor]) -> Difference:
        absolute = relative = 0.0
        if len(expected) != len(actual):
            return cls(float("inf"), float("inf"))
        for a, b in zip(expected, actual, strict=True):
            if a.shape != b.shape:
                return cls(float("inf"), float("inf"))
            a, b = a.double(), b.double()
            gap = torch.where(a == b, 0.0, (a - b).abs())  # equal infinities differ by nothing
            if a.numel() == 0 or not bool(gap.any()):
                continue
            size = a[a.isfinite()].abs().max().item() if bool(a.isfinite().any()) else 0.0
            worst = gap.max().item()
            if worst != worst:
                return cls(worst, worst)
            absolute, relative = max(absolute, worst), max(relative, worst / size if size else float("inf"))
        return cls(absolute, relative)

    def maximum(self, other: Difference) -> Difference:
        """The larger of two differences."""
        return Difference(max(self.absolute, other.absolute), max(self.relative, other.relative))

    def is_exact(self, outputs: list[Tensor]) -> bool:
        """Whether this is no more than rounding in the type of the outputs. Never true for NaN."""
        double = all(t.dtype == torch.float64 for t in outputs if t.is_floating_point())
        return self.relative <= (EXACT_IN_DOUBLE if double else EXACT)

    def is_tolerable(self, outputs: list[Tensor]) -> bool:
        """The verdict where float64 can't be asked: at most 1e-4, or four steps of the type of the outputs."""
        steps = [torch.finfo(t.dtype).eps for t in outputs if t.is_floating_point()]
        return self.relative <= max([1e-4, *(4 * s for s in steps)])


@contextmanager
def finite_weights(model: nn.Module) -> Iterator[None]:
    """Put numbers where training has left NaN or infinity; afterwards the network is bit for bit as it was.

    Args:
        model: the network.
    """
    random = torch.Generator().manual_seed(0)
    with ExitStack() as undo:
        for tensor in (*model.parameters(), *model.buffers()):
            if not bool(tensor.isfinite().all()):
                some = torch.rand(tensor.shape, generator=random).to(tensor)  # positive, as variances have to be
                undo.callback(setattr, tensor, "data", tensor.data)
                tensor.data = torch.where(tensor.data.isfinite(), tensor.data, some)
        yield


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Convert the network to float64; afterwards it is bit for bit as it was.

    Args:
        model: the network.
    """
    with ExitStack() as undo:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                undo.callback(setattr, tensor, "grad", tensor.grad)
                undo.callback(setattr, tensor, "data", tensor.data)
                tensor.grad = None  # a gradient has to have the type of its weight
                tensor.data = tensor.data.double()
        yield
