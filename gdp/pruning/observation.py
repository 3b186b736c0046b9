"""Batches that a method observes: when they are due, and whether what they show is enough."""

from __future__ import annotations

from gdp.errors import GDPError
from gdp.gates import Gates, Seen
from gdp.methods import PruningMethod
from gdp.pruning.run_state import RunState

NAMED = 3  # groups that a message names


def is_observation_due(run: RunState) -> bool:
    """Return whether the method is to be shown the batch of the optimizer step to come.

    So it is at the last `observed_batches` steps up to and including the next one at which channels are chosen.

    Args:
        run: where it is. Only what is saved of it counts, so that a resumed run observes the same.
    """
    step, window, batches = run.steps + 1, run.window, run.method.observed_batches
    if batches < 1 or run.done or run.last_observed_step >= step:
        return False
    overdue = step > window.start and run.last_selection_step < window.last_due_step(step)
    due = step if overdue else window.next_due_step(step)
    chosen = run.budget.allowed(window.progress(due)) < run.selected_fraction
    return due - step < batches and chosen


def check_shown(method: PruningMethod, gates: Gates, seen: Seen | None) -> None:
    """Check that a pass shows the method something of all channels.

    Args:
        method: of the run.
        gates: of the network.
        seen: what a pass on the first batch has shown; None if there was no pass.

    Raises:
        GDPError: it does not.
    """
    name, network = type(method).__name__, type(gates.model).__name__
    if seen is None:
        raise GDPError(
            f"{name} observes what the layers of {network} read, but training_step does not call {network} as a whole "
            f"on the first batch. Call it there, prune what it calls (GDPCallback(module=...)), or use method='polar'."
        )
    channels = {channel for activation in seen.activations for channel in activation.channel.unique().tolist()}
    held = {held.name for held in gates.graph.held}
    missing = [n for n, span in gates.spans.items() if n not in held and channels.isdisjoint(range(*_ends(span)))]
    if missing:
        some = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise GDPError(
            f"{name} observes what the convs and linears of {network} read, but on the first batch none of those that "
            f"read the channels of {some} was called as a module. Leave these layers alone with ignore=[...], or use "
            "method='polar'."
        )


def _ends(span: slice) -> tuple[int, int]:
    return span.start, span.stop
