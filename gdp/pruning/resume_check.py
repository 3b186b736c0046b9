"""What checkpoints say of a pruning run, and what it can be resumed from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from gdp.errors import GDPError
from gdp.report import History
from gdp.surgery import cut_channels
from gdp.utils import Difference

if TYPE_CHECKING:
    from gdp.pruning.pruner import Pruner

PLACE = ("steps", "total_steps", "done", "multiplier", "looked", "opens", "opened", "keep")


def saved(pruner: Pruner) -> dict[str, Any]:
    """Everything a resumed run needs: tensors, numbers and bools."""
    gates = pruner.gates
    return {
        "target_flops": pruner.target_flops,
        "family": type(pruner.method).__name__,
        "raw": gates.gate_param,
        "temperature": gates.temperature,
        "remembered": pruner.method_state,
        "history": gates.history.to_dict(),
        "gone": gates.removed,
        "difference": [gates.difference.absolute, gates.difference.relative],
        "cost": pruner.cost.coef,
        "allowed": pruner.selected_fraction,
        **{name: getattr(pruner, name) for name in PLACE},
    }


def restore(pruner: Pruner, state: dict[str, Any]) -> None:
    """Continue from what was saved; what was cut by then is cut now."""
    gates, gone = pruner.gates, state["gone"].cpu()
    if not torch.equal(gone, gates.removed):
        cut_channels(gates, gone)
    if pruner.cost is not pruner.graph.flops:  # times would be others if they were measured again
        pruner.cost = replace(pruner.cost, coef=state["cost"].cpu())
    for name in PLACE:
        setattr(pruner, name, state[name])
    pruner.selected_fraction, pruner.open_counts = state["allowed"], pruner.open_counts.cpu()
    device = gates.gate_param.device
    gates.gate_param, gates.temperature = state["raw"].to(device), state["temperature"]
    gates.difference, gates.history = Difference(*state["difference"]), History.from_dict(state["history"])
    pruner.method_state = dict(state["remembered"])
    pruner.to(device)


def check_same_run(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse what another kind of run has left.

    Args:
        state: from the checkpoint.
        own: what the run that is to be resumed would save.

    Raises:
        GDPError: it was taken with another network, target or kind of gates, or by another version.
    """
    missing = sorted(own.keys() - state.keys())
    if missing:
        raise GDPError(
            f"The checkpoint was written by another version of gdp: it has no {', '.join(missing)} of the pruning "
            "run. Resume with the version that wrote it."
        )
    if len(state["raw"]) != len(own["raw"]):
        raise GDPError(
            f"The checkpoint has {len(state['raw'])} gates, but this network has {len(own['raw'])}. Build the "
            "network anew, as it was in the interrupted run, and use its `module` and `ignore`."
        )
    if state["target_flops"] != own["target_flops"]:
        raise GDPError(
            f"The checkpoint was on its way to target_flops={state['target_flops']}, but this run asks for "
            f"{own['target_flops']}. Resume with the same target, or prune again after this run."
        )
    if state["family"] != own["family"]:
        raise GDPError(
            f"The checkpoint was written with gates of the kind {state['family']}, but this run has {own['family']}. "
            "Resume with the same kind: GDPCallback(gate=...)."
        )
    if bool((own["gone"] & ~state["gone"].cpu()).any()):
        raise GDPError(
            "Channels that this network has lost already were still there when the checkpoint was written. Build "
            "the network anew, and resume with that one."
        )
