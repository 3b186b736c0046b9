"""RunState: where a pruning run is, what is saved of it, and what it can be resumed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Gates
from gdp.graph import ChannelGraph
from gdp.methods import MethodState, PruningMethod, StepContext, Window
from gdp.pruning.budget import Budget
from gdp.pruning.method_run import MethodRun
from gdp.report import History
from gdp.surgery import cut_channels

EVERYTHING = 2.0  # a fraction of the FLOPs that allows all channels

# what a resumed run takes over as it is
PROGRESS = [
    *("steps", "total_steps", "done", "lagrange_multiplier", "last_selection_step", "selected_fraction"),
    *("last_observed_step", "window_opens_at", "open_counts", "keep_mask"),
]


class RunState:
    """Hold where a pruning run is.

    Args:
        gates: of the network.
        budget: what the network may cost.
        method: of the run.
        total_steps: optimizer steps in the whole run.

    Attributes:
        gates: of the network.
        budget: what the network may cost.
        method: says which channels matter.
        method_run: the method, and what it remembers.
        steps: optimizer steps so far.
        total_steps: optimizer steps in the whole run.
        done: the window is over and the target holds.
        keep_mask: the channels that were chosen last, shape (channels of all groups,); None before that.
        open_counts: open channels per group then, shape (groups,); reading gates more often would stall a GPU.
        lagrange_multiplier: lambda in units of the average: a channel stays if its share of all importance is more than
            lambda times its share of all FLOPs.
        last_selection_step: the step at which channels were last chosen, or the temperature annealed.
        selected_fraction: the fraction of FLOPs that was allowed then.
        last_gradient_step: the step at which gradients were last read.
        last_observed_step: the step whose batch the method was shown last.
        window_opens_at: the window does not open before this step.

    Raises:
        GDPError: the method breaks its contract.
    """

    def __init__(self, gates: Gates, budget: Budget, method: PruningMethod, total_steps: int) -> None:
        self.gates, self.budget, self.method, self.total_steps = gates, budget, method, total_steps
        self.method_run = MethodRun(method)
        self.begin()

    def begin(self) -> None:
        """Be at the beginning of a run."""
        self.steps, self.done, self.lagrange_multiplier = 0, False, 0.0
        self.open_counts, self.selected_fraction = self.gates.open_counts, EVERYTHING
        self.keep_mask: Tensor | None = None
        self.last_selection_step, self.last_gradient_step, self.last_observed_step = 0, -1, 0
        self.window_opens_at = 0
        self.gates.history = History()
        self.method_run.begin(self.context)

    def hold_open(self, reasons: Mapping[str, str]) -> None:
        """Keep all channels of some groups, before any were chosen. Their gates stay in the network, at 1.

        Args:
            reasons: name of a group -> why it stays, in words; other names are ignored.

        Raises:
            GDPError: the target is out of reach then; nothing is changed.
        """
        self.budget = self.budget.holding_open(reasons)
        self.gates.graph = self.graph

    @property
    def graph(self) -> ChannelGraph:
        """What `gdp.trace` found in the network."""
        return self.budget.graph

    @property
    def method_state(self) -> MethodState:
        """What the method remembers; of `Polar` the running mean of the squared gate gradient."""
        return self.method_run.state

    @property
    def window(self) -> Window:
        """The steps at which the window begins and ends."""
        return self.method.window(self.total_steps, self.window_opens_at)

    @property
    def remaining(self) -> float:
        """Fraction of the dense FLOPs (or time) that the channels in `open_counts` cost."""
        return self.budget.remaining(self.open_counts)

    @property
    def allowed(self) -> float:
        """Fraction of the dense FLOPs (or time) that the schedule allows now."""
        return self.budget.allowed(self.window.budget_progress(self.steps))

    @property
    def context(self) -> StepContext:
        """What the method is told of the run."""
        now = (self.keep_mask, self.steps, self.gates.temperature, self.method.regrows, self.budget.target)
        return StepContext(self.gates, self.budget.cost, self.allowed, self.window, *now)

    def to(self, device: torch.device) -> None:
        """Bring what is remembered to `device`, where the weights are."""
        self.method_run.to(device)
        self.keep_mask = None if self.keep_mask is None else self.keep_mask.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs: tensors, numbers, bools and strings."""
        return {
            "target_flops": self.budget.target,
            "method": type(self.method).__name__,
            "method_state": self.method_state,
            "gates": self.gates.state_dict(),
            "cost": self.budget.cost.coef,
            "held": {held.name: held.reason for held in self.graph.held},
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; `Pruner.resume` lets the gates act.

        What was cut by then is cut now; load the network's and the optimizers' states after that.

        Raises:
            GDPError: it was taken with another network, other frozen parts, another target or another method.
        """
        check_same_run(state, self.state_dict())
        self.hold_open(state["held"])
        removed = state["gates"]["removed"].cpu()
        if not torch.equal(removed, self.gates.removed):
            cut_channels(self.gates, removed)
        if self.budget.cost is not self.graph.flops:  # times would be others if they were measured again
            self.budget = replace(self.budget, cost=replace(self.budget.cost, coef=state["cost"].cpu()))
        for name in PROGRESS:
            setattr(self, name, state[name])
        self.open_counts = self.open_counts.cpu()
        self.gates.load_state_dict(state["gates"])
        self.method_run.state = dict(state["method_state"])
        self.gates.view.straight_through = self.method.regrows and not self.done
        self.to(self.gates.gate_param.device)


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
