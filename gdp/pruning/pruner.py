"""Pruner: the state of a pruning run and its two calls per training step. Usable from a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.gates import Gates, gate_gradients, held_out_gradients, insert_gates
from gdp.graph import ChannelGraph, FlopModel
from gdp.methods import MethodState, Polar, PruningMethod, StepContext, Window, check_value
from gdp.pruning.finite_guard import FiniteGuard
from gdp.pruning.method_run import MethodRun
from gdp.pruning.pruner_state import load_pruner_state, pruner_state
from gdp.pruning.untrained import UntrainedWeights
from gdp.report import History
from gdp.selection import WidthConstraints, allowed_fraction, check_reachable, check_target, select_for_schedule
from gdp.surgery import Undo, shrink
from gdp.utils import broadcast_from_rank_zero

EVERYTHING = 2.0  # a fraction of the FLOPs that allows all channels


class Pruner:
    """Close gates along a schedule until the FLOPs target is met.

    Call `watch()` after every backward pass, `step()` after every optimizer step, `finish()` after training; `shrink()`
    whenever the closed channels are to be cut; and, when `wants_held_out`, `learn(loss)` with the loss of a batch that
    the weights are not trained on. Gates hold still at steps whose loss or gradients are not finite, and
    until every gated weight is trained.

    Args:
        model: the network; gates are inserted here.
        graph: what `gdp.trace` found in it.
        target_flops: fraction of the dense FLOPs that remains.
        total_steps: optimizer steps in the whole run; may be set later, but before the first `step()`.
        method: says which channels matter, and when and how fast gates close; default: `Polar()`.
        constraints: which numbers of channels are allowed; default: every one from 1 on.
        cost: what the budget counts; default: FLOPs. See `gdp.selection.latency_model`.
        gates: those that the network has already, from a run that was interrupted; call `restart` then.

    Attributes:
        gates: of the network.
        steps: optimizer steps so far.
        done: the window is over and the target holds.
        keep_mask: the channels that were chosen last, shape (channels of all groups,); None before that.
        open_counts: open channels per group then, shape (groups,); reading gates more often would stall a GPU.
        lagrange_multiplier: lambda in units of the average: a channel stays if its share of all importance is more than
            lambda times its share of all FLOPs.
        last_selection_step: the step at which channels were last chosen, or the temperature annealed.
        selected_fraction: the fraction of FLOPs that was allowed then.
        method_run: the method, and what it remembers.
        window_opens_at: the window does not open before this step.

    Raises:
        GDPError: the target is no fraction or out of reach, nothing can be pruned, or the method breaks its contract.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        target_flops: float,
        total_steps: int = 0,
        method: PruningMethod | None = None,
        constraints: WidthConstraints | None = None,
        cost: FlopModel | None = None,
        gates: Gates | None = None,
    ) -> None:
        check_target(target_flops)
        self.constraints = constraints or WidthConstraints.of(graph)
        self.cost = cost or graph.flops
        check_reachable(replace(graph, flops=self.cost), target_flops, self.constraints)
        self.graph, self.target_flops, self.total_steps = graph, target_flops, total_steps
        self.method = method or Polar()
        self.method_run = MethodRun(self.method)
        check_value(self.method)
        self.method.check_graph(graph)
        self.gates = gates or insert_gates(model, graph, self.method.value, self.method.temperatures[0])
        self._untrained = UntrainedWeights(self.gates)
        self._finite_guard = FiniteGuard()
        self._reset()

    def _reset(self) -> None:
        self.steps, self.done, self.lagrange_multiplier = 0, False, 0.0
        self.open_counts, self.selected_fraction = self.gates.open_counts, EVERYTHING
        self.keep_mask: Tensor | None = None
        self.last_selection_step, self.last_gradient_step, self.window_opens_at = 0, -1, 0
        self.gates.history = History()
        self.method_run.begin(self.context)

    def hold_open(self, reasons: Mapping[str, str]) -> None:
        """Keep all channels of some groups, before any were chosen. Their gates stay in the network, at 1.

        Args:
            reasons: name of a group -> why it stays, in words; other names are ignored.

        Raises:
            GDPError: the target is out of reach then; nothing is changed.
        """
        graph = self.graph.hold_open(reasons)
        cost = replace(graph, flops=self.cost).with_blocks(graph.blocks).flops
        constraints = self.constraints.following(graph)
        check_reachable(replace(graph, flops=cost), self.target_flops, constraints)
        self.cost = graph.flops if self.cost is self.graph.flops else cost
        self.graph, self.gates.graph, self.constraints = graph, graph, constraints

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
        return self.cost.count(self.open_counts) / self.cost.dense

    @property
    def allowed(self) -> float:
        """Fraction of the dense FLOPs (or time) that the schedule allows now."""
        return allowed_fraction(self.window.progress(self.steps), self.target_flops)

    @property
    def context(self) -> StepContext:
        """What the method is told of the run."""
        now = (self.keep_mask, self.steps, self.gates.temperature, self.method.regrows)
        return StepContext(self.gates, self.cost, self.allowed, self.window, *now)

    @property
    def wants_held_out(self) -> bool:
        """Whether the gates are to learn from a held-out batch now, after this step."""
        return not self.done and self.method_run.learns(self.context, from_training=False)

    @torch.no_grad()
    def watch(self, loss: Tensor | None = None, scale: float = 1.0, trained: Container[int] | None = None) -> None:
        """Read the gates' gradients from the weights' gradients, as they are reduced and accumulated.

        The gradient of the method's penalty, if it has one, is added to the weights' gradients after that.

        Args:
            loss: of this step; if it is not finite, gates hold still.
            scale: what the gradients are multiplied with (by a gradient scaler, before a fused optimizer).
            trained: ids of the parameters that are about to be stepped; default: all of the network.
        """
        if self.done:
            return
        if loss is not None:
            self._finite_guard.update(loss)
        learns = self.method_run.learns(self.context, from_training=True)
        due = learns or self.steps % self.method.gradient_interval == 0
        gradient = gate_gradients(self.gates) if due and self.last_gradient_step != self.steps else None
        if gradient is not None:
            self.last_gradient_step = self.steps
            self._finite_guard.update(gradient)
            self.to(gradient.device)
            self.method_run.update(gradient / scale, self.context)
            if learns:
                self.method_run.learn(gradient / scale, self.context)
        self.method_run.add_penalty(self.context, scale, trained)

    @torch.no_grad()
    def learn(self, loss: Tensor, reduce: Callable[[Tensor], Tensor] = lambda gradient: gradient) -> None:
        """Let the gates learn from a batch that the weights are not trained on.

        Args:
            loss: of this batch, with its graph; no gradient of a weight is written.
            reduce: makes the mean over all processes of a gradient.

        Raises:
            GDPError: no weight with a gate has a part in this loss.
        """
        gradient = held_out_gradients(self.gates, loss)
        if gradient is not None:
            self.to(gradient.device)
            self.method_run.learn(reduce(gradient), self.context)

    @torch.no_grad()
    def step(self, skipped: bool = False) -> None:
        """Move the gates; to be called once per optimizer step.

        Args:
            skipped: a gradient scaler has left this step out, so gates hold still.

        Raises:
            GDPError: `total_steps` is not known.
        """
        if self.total_steps < 1:
            raise GDPError(f"Expected `total_steps`, the optimizer steps of the whole run, but got {self.total_steps}.")
        self.steps += 1
        if self._untrained.remain():  # nothing is known about channels that only frozen weights read
            self.window_opens_at = self.steps + 1 + min(self.method.closing, self.total_steps // 20)
        if self.done or self.steps < (window := self.window).start:
            self._finite_guard.reset()
            return
        finite = self._finite_guard.compute(self.steps, self.gates.gate_param.device, skipped)
        self.method_run.multiply_weights(self.context, finite)
        if self.last_selection_step < window.last_due_step(self.steps) or self.steps >= window.end:
            if bool(finite):
                self._select_and_move(window)
            self._finite_guard.warn()
        elif not skipped:
            self.gates.set(torch.where(finite, self.method_run.moved(self.context), self.gates.gate_param))

    @torch.no_grad()
    def finish(self) -> None:
        """Close at once what the target asks for, if training ended inside the window."""
        if not self.done:
            self._select(self.target_flops)
            self._finalize()
            self._record()

    def _select_and_move(self, window: Window) -> None:
        """Choose channels, anneal the temperature and move; when the window ends, finalize."""
        allowed = self.allowed
        if self.selected_fraction > allowed:
            self._select(allowed)
        self.last_selection_step = self.steps
        if self.steps >= window.end:
            self._finalize()
        else:
            temperature = self.method.temperature((self.steps - window.start) / (window.end - window.start))
            self.gates.set(self.method_run.moved(replace(self.context, temperature=temperature)), temperature)
        self._record()

    def _select(self, fraction: float) -> None:
        """Choose what fits into this fraction of the FLOPs now, keeping open a way to meet the target exactly later."""
        context = self.context
        importance, is_open = self.method_run.importance(context), context.may_stay
        budget = (self.cost, self.constraints, self.target_flops, fraction)
        chosen = select_for_schedule(importance, self.gates.group_of, is_open, *budget)
        self.selected_fraction = fraction
        self.keep_mask = broadcast_from_rank_zero(chosen.keep_mask.to(self.gates.gate_param.device))
        total = max(float(importance[is_open].sum()), 1e-30)
        self.lagrange_multiplier = chosen.lagrange_multiplier * self.cost.dense / total
        self.open_counts = self.gates.open_counts

    def _finalize(self) -> None:
        temperature = self.method.temperatures[1]
        self.gates.set(self.method_run.finalized(replace(self.context, temperature=temperature)), temperature)
        self.open_counts, self.done = self.gates.open_counts, True

    def _record(self) -> None:
        found = (self.remaining, self.allowed, self.lagrange_multiplier, self.gates.values, self.open_counts)
        self.gates.history.record(self.steps, *found)

    def shrink(self, optimizers: Iterable[Optimizer] = ()) -> Undo | None:
        """Cut the channels that are closed by now; return what puts them back, or None if there are none.

        As long as the method may let channels come back, nothing is cut. Parameters keep their identity, and state of
        `optimizers` is cut along. DistributedDataParallel has to be built anew around the network afterwards;
        `GDPCallback` does it.

        Raises:
            GDPError: an optimizer's state can't be cut, or the cut is not exact; nothing is changed then.
        """
        waits = self.method.regrows and not self.done
        return None if waits else shrink(self.gates, optimizers)

    def restart(self) -> None:
        """Begin a run anew on a network that an interrupted one has cut in part; what is open opens fully."""
        self.gates.value_function = self.method.value
        self.gates.set(torch.where(self.gates.gate_param > 0, 1.0, 0.0), self.method.temperatures[0])
        self._reset()

    def to(self, device: torch.device) -> None:
        """Bring what is remembered to `device`, where the weights are."""
        self.method_run.to(device)
        self.keep_mask = None if self.keep_mask is None else self.keep_mask.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs: tensors, numbers, bools and strings."""
        return pruner_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; `resume()` lets the gates act.

        What was cut by then is cut now; load the network's and the optimizers' states after that.

        Raises:
            GDPError: it was taken with another network, other frozen parts, another target or another method.
        """
        load_pruner_state(self, state)

    def resume(self) -> None:
        """Let loaded gates act, in float32, once the network is on its device and the user's optimizers exist."""
        self.gates.to(device := self.gates.readers[0].weight.device)
        self.gates.to_float32()
        self.to(device)
        if bool((self.gates.gate_param < 1).any()):
            self.gates.set()
