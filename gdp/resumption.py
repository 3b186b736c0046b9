"""What a pruning run can be resumed from."""

from __future__ import annotations

from typing import Any

from gdp.errors import GDPError


def refuse_other_run(state: dict[str, Any], own: dict[str, Any]) -> None:
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
