"""Batches that a method observes: when they are due, and whether what they show is enough."""

from __future__ import annotations

from gdp.errors import GDPError
from gdp.gates import Seen
from gdp.methods import check_observe
from gdp.pruning.run_state import RunState

NAMED = 3  # groups that a message names


def is_observation_due(run: RunState) -> bool:
    """Return whether the method is to be shown the batch of the optimizer step to come.

    So it is at the last `observed_batches` steps up to and including the next one at which channels are chosen.

    Args:
        run: where it is. Only what is saved of it counts, so that a resumed run observes the same.
    """
    step, batches = run.steps + 1, run.method.observed_batches
    if batches < 1 or run.done or run.last_observed_step >= step:
        return False
    window = run.window
    overdue = step > window.start and run.last_selection_step < window.last_due_step(step)
    due = step if overdue else window.next_due_step(step)
    chosen = run.budget.allowed(window.budget_progress(due)) < run.selected_fraction
    return due - step < batches and chosen


def check_observation(run: RunState, seen: Seen | None) -> None:
    """Check that a pass shows the method something of all channels, and that it makes a state of it.

    Args:
        run: before its first step.
        seen: what a pass on the first batch has shown; None if there was no pass.

    Raises:
        GDPError: it does not.
    """
    method, gates = run.method, run.gates
    name, network = type(method).__name__, type(gates.model).__name__
    if seen is None:
        raise GDPError(
            f"{name} observes what the layers of {network} read, but training_step does not call {network} as a whole "
            f"on the first batch. Call it there, prune what it calls (GDPCallback(module=...)), or use method='polar'."
        )
    channels = {channel for activation in seen.activations for channel in activation.channel.unique().tolist()}
    held = {held.name for held in gates.graph.held}
    missing = [
        n for n, span in gates.spans.items() if n not in held and channels.isdisjoint(range(span.start, span.stop))
    ]
    if missing:
        some = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise GDPError(
            f"{name} observes what the convs and linears of {network} read, but on the first batch none of those that "
            f"read the channels of {some} was called as a module. Leave these layers alone with ignore=[...], or use "
            "method='polar'."
        )
    check_observe(method, run.method_state, seen, run.context)
