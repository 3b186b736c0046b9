"""Check the kind of what members of a method return. Nothing is read from the device: it is asked at every step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import ROLES
from gdp.methods.base import MethodState, PruningMethod


def check_state(method: PruningMethod, member: str, found: Any, before: MethodState | None = None) -> None:
    """Check that something is a state, and has the names of the one before.

    Args:
        method: that has returned it.
        member: of the method.
        found: what it has returned.
        before: the state that it was given, if any.

    Raises:
        GDPError: it is something else.
    """
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise wrong(method, member, "a dict of tensors", repr(found)[:80])
    if before is not None and found.keys() != before.keys():
        raise wrong(method, member, f"the names of init_state, {sorted(before)}", str(sorted(found)))
    if any(tensor.requires_grad for tensor in found.values()):
        raise wrong(method, member, "tensors without a graph, which would grow step by step", "some that require grad")


def check_learned(method: PruningMethod, found: Any, before: MethodState, channels: int) -> None:
    """Check that something is what `learn` returns.

    Args:
        method: that has returned it.
        found: what it has returned.
        before: the state that it was given.
        channels: of all groups.

    Raises:
        GDPError: it is something else.
    """
    if not isinstance(found, tuple) or len(found) != 2:
        raise wrong(method, "learn", "a pair of state and x", type(found).__name__)
    check_state(method, "learn", found[0], before)
    check_vector(method, "learn", found[1], channels)


def check_scalar(method: PruningMethod, member: str, found: Any) -> None:
    """Check that something is a scalar, or nothing.

    Args:
        method: that has returned it.
        member: of the method.
        found: what it has returned.

    Raises:
        GDPError: it is something else.
    """
    if found is not None and not (isinstance(found, Tensor) and found.dim() == 0):
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)[:80]
        raise wrong(method, member, "a scalar tensor, or None", what)


def check_factors(method: PruningMethod, found: Any, channels: int) -> None:
    """Check that something is one factor per channel for some roles, or nothing.

    Args:
        method: that has returned it.
        found: what `factors` has returned.
        channels: of all groups.

    Raises:
        GDPError: it is something else.
    """
    if found is not None and not isinstance(found, dict):
        raise wrong(method, "factors", "a dict of factors by role, or None", type(found).__name__)
    for role, factor in (found or {}).items():
        if role not in ROLES:
            raise wrong(method, "factors", f"roles out of {', '.join(ROLES)}", repr(role))
        check_vector(method, "factors", factor, channels)


def check_vector(method: PruningMethod, member: str, found: Any, channels: int) -> None:
    """Check that something is a tensor with one number per channel.

    Args:
        method: that has returned it.
        member: of the method.
        found: what it has returned.
        channels: that there are.

    Raises:
        GDPError: it is something else.
    """
    if not isinstance(found, Tensor) or tuple(found.shape) != (channels,):
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise wrong(method, member, f"a tensor of shape ({channels},), one number per channel", what)
    if found.is_complex() or found.is_meta:
        raise wrong(method, member, "real numbers", f"{found.dtype} on {found.device}")


def wrong(method: PruningMethod, member: str, expected: str, found: str) -> GDPError:
    """Return the error that a member has returned something else than it should.

    Args:
        method: that was asked.
        member: of the method.
        expected: what it should return, in words.
        found: what it has returned.
    """
    return GDPError(f"Expected {type(method).__name__}.{member} to return {expected}, but got {found}.")
