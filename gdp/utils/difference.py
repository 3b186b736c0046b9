"""Compare the outputs of two networks, and run a network in float64 where its own type is too coarse to decide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EXACT = 1e-5  # relative difference that float32 leaves between equal computations in another order
EXACT_IN_DOUBLE = 1e-9  # the same for float64


@dataclass(frozen=True)
class Difference:
    """Largest difference between two lists of output tensors.

    Attributes:
        absolute: largest absolute difference of two elements, in the unit of the outputs; NaN or inf if outputs differ
            by that.
        relative: largest of the tensors' absolute differences, each divided by the largest finite element of the
            expected tensor.
    """

    absolute: float
    relative: float

    @classmethod
    def between(cls, expected: list[Tensor], actual: list[Tensor]) -> Difference:
        """Return the difference between two lists of outputs; infinite if their numbers or shapes differ.

        Args:
            expected: output tensors of any shapes.
            actual: output tensors that should be equal to them.
        """
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
            # relative to the largest finite element of the expected tensor; NaN in either tensor makes both numbers NaN
            size = a[a.isfinite()].abs().max().item() if bool(a.isfinite().any()) else 0.0
            largest = gap.max().item()
            if largest != largest:
                return cls(largest, largest)
            absolute, relative = max(absolute, largest), max(relative, largest / size if size else float("inf"))
        return cls(absolute, relative)

    def maximum(self, other: Difference) -> Difference:
        """Return the larger absolute and the larger relative part of two differences.

        Args:
            other: another difference.
        """
        return Difference(max(self.absolute, other.absolute), max(self.relative, other.relative))

    def is_exact(self, outputs: list[Tensor]) -> bool:
        """Return whether this is no more than rounding in the type of the outputs; False for NaN.

        Args:
            outputs: the compared outputs; if all of their floats are float64, the stricter limit holds.
        """
        double = all(t.dtype == torch.float64 for t in outputs if t.is_floating_point())
        return self.relative <= (EXACT_IN_DOUBLE if double else EXACT)

    def is_tolerable(self, outputs: list[Tensor]) -> bool:
        """Return whether this may be rounding, for networks that can't be run in float64.

        The limit is a relative difference of 1e-4, or four times the machine epsilon of the outputs' type if that is
        larger.

        Args:
            outputs: the compared outputs; they decide the type.
        """
        epsilons = [torch.finfo(t.dtype).eps for t in outputs if t.is_floating_point()]
        return self.relative <= max([1e-4, *(4 * epsilon for epsilon in epsilons)])


@contextmanager
def finite_weights(model: nn.Module) -> Iterator[None]:
    """Put random numbers where training has left NaN or infinity; afterwards the network is bit for bit as it was.

    Args:
        model: the network; its parameters and buffers are replaced for the time being.
    """
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as undo:
        for tensor in (*model.parameters(), *model.buffers()):
            if not bool(tensor.isfinite().all()):
                # positive numbers, since variances have to be
                numbers = torch.rand(tensor.shape, generator=generator).to(tensor)
                undo.callback(setattr, tensor, "data", tensor.data)
                tensor.data = torch.where(tensor.data.isfinite(), tensor.data, numbers)
        yield


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Convert the network to float64; afterwards it is bit for bit as it was.

    Args:
        model: the network; its floating parameters and buffers are replaced for the time being.
    """
    with ExitStack() as undo:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                undo.callback(setattr, tensor, "grad", tensor.grad)
                undo.callback(setattr, tensor, "data", tensor.data)
                tensor.grad = None  # a gradient has to have the type of its weight
                tensor.data = tensor.data.double()
        yield
