"""What a pruning run can be resumed from."""

from __future__ import annotations

from typing import Any

from gdp.errors import GDPError


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
