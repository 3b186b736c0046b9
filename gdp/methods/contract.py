"""Check before training that a method keeps to what `PruningMethod` says, so that a wrong one prunes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import ROLES, Seen
from gdp.methods.base import LearningBatches, MethodState, PruningMethod
from gdp.methods.context import StepContext

SAMPLES = 101  # points of [0, 1] at which a gate function is looked at


def check_value(method: PruningMethod) -> None:
    """Check the gate function and its temperatures.

    Args:
        method: that is about to be used.

    Raises:
        GDPError: a value is not 0 at 0, not 1 at 1, or falls somewhere in between.
    """
    first, last = _returned(method, "temperatures", lambda: tuple(map(float, method.temperatures)))
    x = torch.linspace(0, 1, SAMPLES, dtype=torch.float32)
    for temperature in (first, last):
        found = _returned(method, "value", partial(method.value, x, temperature))
        _check_vector(method, "value", found, len(x))
        if found[0] != 0 or found[-1] != 1:
            raise _wrong(method, "value", "exactly 0 for x = 0 and exactly 1 for x = 1", f"{found[0]} and {found[-1]}")
        if bool((found.diff() < -1e-6).any()):
            raise _wrong(method, "value", "numbers that rise with x", f"some that fall at temperature {temperature}")


def check_method(method: PruningMethod, context: StepContext) -> None:
    """Check everything that a method says of a network, by asking it once before training.

    Args:
        method: that is about to be used.
        context: of the network with its gates, before the first step.

    Raises:
        GDPError: it names method and member, what was expected and what was found.
    """
    channels = len(context.gate_param)
    state = _returned(method, "init_state", lambda: method.init_state(channels))
    _check_state(method, "init_state", state, None)
    zeros = torch.zeros_like(context.gate_param)
    _check_state(method, "update", _returned(method, "update", lambda: method.update(state, zeros, context)), state)
    check_importance(method, _returned(method, "importance", lambda: method.importance(state, context)), channels)

    inside = replace(context, keep_mask=torch.ones(channels, dtype=torch.bool, device=zeros.device))
    _check_x(method, "step", _returned(method, "step", partial(method.step, state, inside)), channels)
    _check_finalized(method, state, replace(inside, temperature=method.temperatures[1]))
    _check_learning(method, state, inside)
    _check_weights(method, state, inside)
    if not isinstance(method.observed_batches, int) or method.observed_batches < 0:
        raise _wrong(method, "observed_batches", "a number of batches, 0 for none", repr(method.observed_batches))


def check_importance(method: PruningMethod, found: Tensor, channels: int) -> None:
    """Check an importance before channels are chosen by it.

    Args:
        method: that it is of.
        found: what `importance` has returned.
        channels: of all groups.

    Raises:
        GDPError: it has another shape, or numbers that are not finite or negative.
    """
    _check_vector(method, "importance", found, channels)
    if not bool(found.isfinite().all()) or bool((found < 0).any()):
        least = float(found.min()) if bool(found.isfinite().all()) else "others, as happens where training diverges"
        raise _wrong(method, "importance", "finite numbers of at least 0", str(least))


def check_observe(method: PruningMethod, state: MethodState, seen: Seen, context: StepContext) -> None:
    """Check what a method makes of a batch that it is shown, by showing it one; nothing is remembered of it.

    Args:
        method: that is about to be used.
        state: before the first step.
        seen: of a pass on the first batch.
        context: of the network with its gates, before the first step.

    Raises:
        GDPError: it names method and member, what was expected and what was found.
    """
    _check_state(method, "observe", _returned(method, "observe", lambda: method.observe(state, seen, context)), state)


def _check_finalized(method: PruningMethod, state: MethodState, context: StepContext) -> None:
    """Check that gates of channels which stay are open at the end.

    Args:
        method: that is about to be used.
        state: before the first step.
        context: in which all channels are to stay.
    """
    found = _returned(method, "finalize", partial(method.finalize, state, context))
    _check_x(method, "finalize", found, len(context.gate_param))
    value = method.value(found, context.temperature)
    if bool((value <= 0.5).any()):
        raise _wrong(
            method, "finalize", "an x with a value above 1/2 for channels that stay", f"a value of {float(value.min())}"
        )


def _check_learning(method: PruningMethod, state: MethodState, context: StepContext) -> None:
    """Check how gates learn, if they do.

    Args:
        method: that is about to be used.
        state: before the first step.
        context: with a keep_mask.
    """
    batches = method.learns_from
    if batches is None:
        return
    right = isinstance(batches, LearningBatches) and isinstance(batches.every, int) and batches.every >= 1
    fraction = right and isinstance(batches.source, float) and 0 < batches.source < 1
    if not right or not (batches.source in ("train", "val") or fraction):
        raise _wrong(method, "learns_from", "LearningBatches(source, every), or None", repr(batches))
    zeros = torch.zeros_like(context.gate_param)
    found = _returned(method, "learn", lambda: method.learn(state, zeros, context))
    if not isinstance(found, tuple) or len(found) != 2:
        raise _wrong(method, "learn", "a pair of state and x", type(found).__name__)
    _check_state(method, "learn", found[0], state)
    _check_x(method, "learn", found[1], len(zeros))


def _check_weights(method: PruningMethod, state: MethodState, context: StepContext) -> None:
    """Check what a method does to weights, if it does anything at the first step.

    Args:
        method: that is about to be used.
        state: before the first step.
        context: with a keep_mask.
    """
    with torch.enable_grad():
        penalty = _returned(method, "penalty", lambda: method.penalty(state, context))
    is_scalar = isinstance(penalty, Tensor) and penalty.dim() == 0
    if penalty is not None and not (is_scalar and bool(penalty.isfinite())):
        found = f"shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) and not is_scalar else repr(penalty)
        raise _wrong(method, "penalty", "a finite scalar tensor, or None", found)
    factors = _returned(method, "factors", lambda: method.factors(state, context))
    for role, factor in (factors or {}).items():
        if role not in ROLES:
            raise _wrong(method, "factors", f"roles out of {', '.join(ROLES)}", repr(role))
        _check_vector(method, "factors", factor, len(context.gate_param))


def _returned(method: PruningMethod, member: str, call: Callable[[], Any]) -> Any:
    """Return what a member returns, or say which one has failed.

    Args:
        method: that is asked.
        member: of the method.
        call: asks it.
    """
    try:
        return call()
    except GDPError:
        raise
    except Exception as error:  # code of the user's may raise anything
        raise GDPError(
            f"{type(method).__name__}.{member} failed before training ({type(error).__name__}: {error}). Vectors have "
            "one entry per channel of all groups; gdp.methods.PruningMethod says what every member takes and returns."
        ) from error


def _check_state(method: PruningMethod, member: str, found: Any, before: MethodState | None) -> None:
    """Check that something is a state, and has the names of the one before.

    Args:
        method: that has returned it.
        member: of the method.
        found: what it has returned.
        before: the state that it was given, if any.
    """
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise _wrong(method, member, "a dict of tensors", repr(found)[:80])
    if before is not None and found.keys() != before.keys():
        raise _wrong(method, member, f"the names of init_state, {sorted(before)}", str(sorted(found)))


def _check_x(method: PruningMethod, member: str, found: Any, channels: int) -> None:
    """Check that something is the x of all gates.

    Args:
        method: that has returned it.
        member: of the method.
        found: what it has returned.
        channels: of all groups.
    """
    _check_vector(method, member, found, channels)
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise _wrong(method, member, "numbers in [0, 1]", f"some in [{float(found.min())}, {float(found.max())}]")


def _check_vector(method: PruningMethod, member: str, found: Any, channels: int) -> None:
    """Check that something is a tensor with one number per channel.

    Args:
        method: that has returned it.
        member: of the method.
        found: what it has returned.
        channels: that there are.
    """
    if not isinstance(found, Tensor) or tuple(found.shape) != (channels,):
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise _wrong(method, member, f"a tensor of shape ({channels},), one number per channel", what)


def _wrong(method: PruningMethod, member: str, expected: str, found: str) -> GDPError:
    return GDPError(f"Expected {type(method).__name__}.{member} to return {expected}, but got {found}.")
