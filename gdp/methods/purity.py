"""Check that members of a method are pure: that they change nothing they are told of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods.base import MethodState, PruningMethod
from gdp.methods.context import StepContext


@contextmanager
def unchanged(method: PruningMethod, member: str, context: StepContext) -> Iterator[None]:
    """Check that a member leaves x and the choice of channels as they are, without reading from the device.

    Args:
        method: that is asked.
        member: of the method.
        context: that it is told of.

    Raises:
        GDPError: it has written into one of them.
    """
    told = {"context.gate_param": context.gate_param, "context.keep_mask": context.keep_mask}
    before = _versions(told)
    yield
    _compare(method, member, before)


@contextmanager
def pure(method: PruningMethod, member: str, context: StepContext, state: MethodState) -> Iterator[None]:
    """Check that a member changes nothing at all: nothing it is told of, no parameter, no random numbers of training.

    Args:
        method: that is asked.
        member: of the method.
        context: that it is told of.
        state: that it is given.

    Raises:
        GDPError: it has written into one of them, or drawn from torch's own generator, which is put back.
    """
    names, numbers = list(state), torch.get_rng_state()
    told = {f"state[{name!r}]": tensor for name, tensor in state.items()}
    told |= {f"the parameter {name}": p for name, p in context.gates.model.named_parameters()}
    before = _versions(told)
    with unchanged(method, member, context):
        yield
    _compare(method, member, before)
    if list(state) != names:
        raise _impure(method, member, "the names in state")
    if not torch.equal(torch.get_rng_state(), numbers):
        torch.set_rng_state(numbers)
        raise _impure(
            method, member, "torch's random numbers", " Draw from a torch.Generator of your own, with a seed."
        )


def _versions(told: Mapping[str, Tensor | None]) -> list[tuple[str, Tensor, int]]:
    """Return tensors with how often they were written into."""
    return [(name, tensor, tensor._version) for name, tensor in told.items() if tensor is not None]


def _compare(method: PruningMethod, member: str, before: list[tuple[str, Tensor, int]]) -> None:
    for name, tensor, version in before:
        if tensor._version != version:
            raise _impure(method, member, name)


def _impure(method: PruningMethod, member: str, what: str, way_out: str = " Return new tensors instead.") -> GDPError:
    return GDPError(
        f"Expected {type(method).__name__}.{member} to change nothing, but it has changed {what}, so that a resumed "
        f"run and other processes would come to something else.{way_out}"
    )
