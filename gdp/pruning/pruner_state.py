"""What is saved of a pruning run, and what it can be resumed from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gdp.errors import GDPError
from gdp.surgery import cut_channels

# what a resumed run takes over as it is
PROGRESS = [
    *("steps", "total_steps", "done", "lagrange_multiplier", "last_selection_step", "selected_fraction"),
    *("window_opens_at", "open_counts", "keep_mask"),
]


def pruner_state(pruner: Any) -> dict[str, Any]:
    """Return everything a resumed run needs: tensors, numbers, bools and strings.

    Args:
        pruner: the `Pruner` of the run.
    """
    state: dict[str, Any] = {
        "target_flops": pruner.target_flops,
        "method": type(pruner.method).__name__,
        "method_state": pruner.method_state,
        "gates": pruner.gates.state_dict(),
        "cost": pruner.cost.coef,
        "held": {held.name: held.reason for held in pruner.graph.held},
        **{name: getattr(pruner, name) for name in PROGRESS},
    }
    return state


def load_pruner_state(pruner: Any, state: dict[str, Any]) -> None:
    """Let a pruner continue where a state was taken; what was cut by then is cut now.

    Args:
        pruner: the `Pruner` of the run that goes on.
        state: from `pruner_state`.

    Raises:
        GDPError: it was left by another kind of run.
    """
    check_same_run(state, pruner_state(pruner))
    pruner.hold_open(state["held"])
    removed = state["gates"]["removed"].cpu()
    if not torch.equal(removed, pruner.gates.removed):
        cut_channels(pruner.gates, removed)
    if pruner.cost is not pruner.graph.flops:  # times would be others if they were measured again
        pruner.cost = replace(pruner.cost, coef=state["cost"].cpu())
    for name in PROGRESS:
        setattr(pruner, name, state[name])
    pruner.open_counts = pruner.open_counts.cpu()
    pruner.gates.load_state_dict(state["gates"])
    pruner.method_run.state = dict(state["method_state"])
    pruner.gates.view.straight_through = pruner.method.regrows and not pruner.done
    pruner.to(pruner.gates.gate_param.device)


def check_same_run(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Check that a state was left by the same kind of run.

    Args:
        state: from the checkpoint.
        own: what the run that is to be resumed would save.

    Raises:
        GDPError: it was taken with another network, target or method, or by another version.
    """
    missing = sorted(own.keys() - state.keys())
    if missing:
        raise GDPError(
            f"The checkpoint was written by another version of gdp: it has no {', '.join(missing)} of the pruning "
            "run. Resume with the version that wrote it."
        )
    channels, own_channels = len(state["gates"]["gate_param"]), len(own["gates"]["gate_param"])
    if channels != own_channels:
        raise GDPError(
            f"The checkpoint has {channels} gates, but this network has {own_channels}. Build the "
            "network anew, as it was in the interrupted run, and use its `module` and `ignore`."
        )
    if state["target_flops"] != own["target_flops"]:
        raise GDPError(
            f"The checkpoint was on its way to target_flops={state['target_flops']}, but this run asks for "
            f"{own['target_flops']}. Resume with the same target, or prune again after this run."
        )
    if state["method"] != own["method"]:
        raise GDPError(
            f"The checkpoint was written with the method {state['method']}, but this run has {own['method']}. "
            "Resume with the same one: GDPCallback(method=...)."
        )
    if bool((own["gates"]["removed"] & ~state["gates"]["removed"].cpu()).any()):
        raise GDPError(
            "Channels that this network has lost already were still there when the checkpoint was written. Build "
            "the network anew, and resume with that one."
        )
