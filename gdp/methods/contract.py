"""Check before training that a method keeps to what `PruningMethod` says, so that a wrong one prunes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Seen
from gdp.methods.base import LearningBatches, MethodState, PruningMethod
from gdp.methods.context import StepContext
from gdp.methods.purity import pure
from gdp.methods.returned import check_factors, check_learned, check_scalar, check_state, check_vector, wrong

SAMPLES = 101  # points of [0, 1] at which a gate function is looked at
MOMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the window, whose temperatures are looked at


def check_value(method: PruningMethod) -> None:
    """Check the gate function and its temperatures.

    Args:
        method: that is about to be used.

    Raises:
        GDPError: a value is not 0 at 0, not 1 at 1, or falls somewhere in between.
    """
    ends = _returned(method, "temperatures", lambda: tuple(map(float, method.temperatures)))
    moments = _returned(method, "temperature", lambda: [float(method.temperature(moment)) for moment in MOMENTS])
    if len(ends) != 2:
        raise wrong(method, "temperatures", "the first and the last one", str(ends))
    x = torch.linspace(0, 1, SAMPLES, dtype=torch.float32)
    for temperature in (*ends, *moments):
        found = _returned(method, "value", partial(method.value, x, temperature))
        check_vector(method, "value", found, len(x))
        if found[0] != 0 or found[-1] != 1:
            raise wrong(method, "value", "exactly 0 for x = 0 and exactly 1 for x = 1", f"{found[0]} and {found[-1]}")
        if bool((found.diff() < -1e-6).any()):
            raise wrong(method, "value", "numbers that rise with x", f"some that fall at temperature {temperature}")


def check_method(method: PruningMethod, context: StepContext) -> None:
    """Check everything that a method says of a network, by asking it once before training.

    Args:
        method: that is about to be used.
        context: of the network with its gates, before the first step.

    Raises:
        GDPError: it names method and member, what was expected and what was found.
    """
    channels = len(context.gate_param)
    _check_switches(method)
    state = _returned(method, "init_state", lambda: method.init_state(channels))
    check_state(method, "init_state", state)
    zeros = torch.zeros_like(context.gate_param)
    check_state(method, "update", _asked(method, "update", context, state, zeros), state)
    found = _asked(method, "importance", context, state)
    check_importance(method, found, channels)
    again = _asked(method, "importance", context, state)
    if not torch.allclose(found.double(), again.double(), rtol=1e-2):
        raise wrong(method, "importance", "the same numbers for the same arguments", "others when it was asked again")

    inside = replace(context, keep_mask=torch.ones(channels, dtype=torch.bool, device=zeros.device))
    found = _asked(method, "step", inside, state)
    check_vector(method, "step", found, channels)
    _check_range(method, "step", found)
    last = replace(inside, temperature=method.temperatures[1])
    check_finalized(method, _asked(method, "finalize", last, state), last)
    _check_learning(method, state, inside)
    _check_weights(method, state, inside)


def check_importance(method: PruningMethod, found: Tensor, channels: int) -> None:
    """Check an importance before channels are chosen by it.

    Args:
        method: that it is of.
        found: what `importance` has returned.
        channels: of all groups.

    Raises:
        GDPError: it has another shape, or numbers that are not finite or negative.
    """
    check_vector(method, "importance", found, channels)
    if not bool(found.isfinite().all()) or bool((found < 0).any()):
        least = float(found.min()) if bool(found.isfinite().all()) else "others, as happens where training diverges"
        raise wrong(method, "importance", "finite numbers of at least 0", str(least))


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
    with torch.no_grad(), pure(method, "observe", context, state):
        found = _returned(method, "observe", lambda: method.observe(state, seen, context))
    check_state(method, "observe", found, state)


def check_finalized(method: PruningMethod, found: Any, context: StepContext) -> None:
    """Check that gates of channels which stay are open at the end of the window.

    Args:
        method: that has returned it.
        found: what `finalize` has returned.
        context: at the end of the window.

    Raises:
        GDPError: x has another shape or lies outside of [0, 1], or a chosen channel has a value of at most 1/2.
    """
    check_vector(method, "finalize", found, len(context.gate_param))
    _check_range(method, "finalize", found)
    value = method.value(found, context.temperature)[context.chosen]
    if not bool((value > 0.5).all()):
        raise wrong(
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
        raise wrong(method, "learns_from", "LearningBatches(source, every), or None", repr(batches))
    zeros = torch.zeros_like(context.gate_param)
    found = _asked(method, "learn", context, state, zeros)
    check_learned(method, found, state, len(zeros))
    _check_range(method, "learn", found[1])


def _check_weights(method: PruningMethod, state: MethodState, context: StepContext) -> None:
    """Check what a method does to weights, if it does anything at the first step.

    Args:
        method: that is about to be used.
        state: before the first step.
        context: with a keep_mask.
    """
    with torch.enable_grad():
        penalty = _asked(method, "penalty", context, state)
    check_scalar(method, "penalty", penalty)
    if penalty is not None and not bool(penalty.isfinite()):
        raise wrong(method, "penalty", "a finite number", str(float(penalty)))
    factors = _asked(method, "factors", context, state)
    check_factors(method, factors, len(context.gate_param))
    if not all(bool(factor.isfinite().all()) for factor in (factors or {}).values()):
        raise wrong(method, "factors", "finite numbers", "some that are not")


def _check_switches(method: PruningMethod) -> None:
    """Check what a method says of itself.

    Args:
        method: that is about to be used.
    """
    if not isinstance(method.observed_batches, int) or method.observed_batches < 0:
        raise wrong(method, "observed_batches", "a number of batches, 0 for none", repr(method.observed_batches))
    for member in ("needs_labels", "adds_loss", "regrows"):
        if not isinstance(found := getattr(method, member), bool):
            raise wrong(method, member, "True or False, as a property or attribute", repr(found)[:80])


def _asked(method: PruningMethod, member: str, context: StepContext, state: MethodState, *more: Tensor) -> Any:
    """Return what a member returns that is told of state and context, or say that it has failed or changed something.

    Args:
        method: that is asked.
        member: of the method.
        context: where the run is.
        state: what is remembered.
        more: what it is told beside.
    """
    with pure(method, member, context, state):
        return _returned(method, member, lambda: getattr(method, member)(state, *more, context))


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


def _check_range(method: PruningMethod, member: str, found: Tensor) -> None:
    """Check that x lies in [0, 1].

    Args:
        method: that has returned it.
        member: of the method.
        found: what it has returned.
    """
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise wrong(method, member, "numbers in [0, 1]", f"some in [{float(found.min())}, {float(found.max())}]")
