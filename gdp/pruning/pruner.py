"""Pruner: the state of a pruning run and its two calls per training step. Usable from a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.gates import Gates, Seen, gate_gradients, held_out_gradients, insert_gates
from gdp.graph import ChannelGraph, FlopModel
from gdp.methods import Polar, PruningMethod, Window, check_value
from gdp.pruning.budget import Budget
from gdp.pruning.finite_guard import FiniteGuard
from gdp.pruning.observation import is_observation_due
from gdp.pruning.run_state import RunState
from gdp.pruning.untrained import UntrainedWeights
from gdp.selection import WidthConstraints
from gdp.surgery import Undo, shrink
from gdp.utils import broadcast_from_rank_zero


class Pruner(RunState):
    """Close gates along a schedule until the FLOPs target is met.

    Call `watch()` after every backward pass, `step()` after every optimizer step, `finish()` after training; `shrink()`
    whenever the closed channels are to be cut; when `wants_held_out`, `learn(loss)` with the loss of a batch that the
    weights are not trained on; and when `wants_observation`, before the next step, `observe(seen)`. Gates hold still at
    steps whose loss or gradients are not finite, and until every gated weight is trained.

    Args:
        model: the network; gates are inserted here.
        graph: what `gdp.trace` found in it.
        target_flops: fraction of the dense FLOPs that remains.
        total_steps: optimizer steps in the whole run; may be set later, but before the first `step()`.
        method: says which channels matter, and when and how fast gates close; default: `Polar()`.
        constraints: which numbers of channels are allowed; default: every one from 1 on.
        cost: what the budget counts; default: FLOPs. See `gdp.selection.latency_model`.
        gates: those that the network has already, from a run that was interrupted; call `restart` then.

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
        budget = Budget(graph, target_flops, constraints or WidthConstraints.of(graph), cost or graph.flops)
        method = method or Polar()
        check_value(method)
        method.check_graph(graph)
        gates = gates or insert_gates(model, graph, method.value, method.temperatures[0])
        self._untrained = UntrainedWeights(gates)
        self._finite_guard = FiniteGuard()
        super().__init__(gates, budget, method, total_steps)

    @property
    def wants_held_out(self) -> bool:
        """Whether the gates are to learn from a held-out batch now, after this step."""
        return not self.done and self.method_run.learns(self.context, from_training=False)

    @torch.no_grad()
    def watch(
        self,
        loss: Tensor | None = None,
        scale: float = 1.0,
        trained: Container[int] | None = None,
        share: float = 1.0,
    ) -> None:
        """Read the gates' gradients from the weights' gradients, as they are reduced and accumulated.

        The gradient of the method's penalty, if it has one, is added to the weights' gradients after that.

        Args:
            loss: of this step; if it is not finite, gates hold still.
            scale: what the gradients are multiplied with (by a gradient scaler, before a fused optimizer).
            trained: ids of the parameters that are about to be stepped; default: all of the network.
            share: what the loss counts in this step, in (0, 1]: the part of the batches to be accumulated that was
                there. The penalty counts as much.
        """
        if self.done:
            return
        if loss is not None:
            self._finite_guard.update(loss)
        learns = self.method_run.learns(self.context, from_training=True)
        due = (learns or self.steps % self.method.gradient_interval == 0) and self.last_gradient_step != self.steps
        gradient = gate_gradients(self.gates, trained=trained) if due else None
        if gradient is not None:
            self.last_gradient_step = self.steps
            self._finite_guard.update(gradient)
            self.to(gradient.device)
            self.method_run.update(gradient / scale, self.context)
            if learns:
                self.method_run.learn(gradient / scale, self.context)
        self.method_run.add_penalty(self.context, scale * share, trained)

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

    @property
    def wants_observation(self) -> bool:
        """Whether the method is to be shown what the batch of the optimizer step to come shows."""
        return is_observation_due(self)

    @torch.no_grad()
    def observe(self, seen: Seen) -> None:
        """Show the method what a batch shows; see `gdp.gates.observed`. What it remembers is averaged over processes.

        Args:
            seen: of a pass on the batch of the optimizer step to come.
        """
        self.gates.to(device := self.gates.readers[0].weight.device)
        self.to(device)
        self.method_run.observe(seen, self.context)
        self.last_observed_step = self.steps + 1

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
        early = self.steps < (window := self.window).start
        if self.done or (early and not self.method_run.has_factors):
            self._finite_guard.reset()
            return
        finite = self._finite_guard.compute(self.steps, self.gates.gate_param.device, skipped)
        self.method_run.multiply_weights(self.context, finite)
        if early:
            return
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
            self._select(self.budget.target)
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
        chosen = self.budget.choose(self.method_run.importance(context), context, fraction)
        self.keep_mask = broadcast_from_rank_zero(chosen.keep_mask.to(self.gates.gate_param.device))
        self.selected_fraction, self.lagrange_multiplier = fraction, chosen.lagrange_multiplier
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
        self.begin()

    def resume(self) -> None:
        """Let loaded gates act, in float32, once the network is on its device and the user's optimizers exist."""
        self.gates.to(device := self.gates.readers[0].weight.device)
        self.gates.to_float32()
        self.to(device)
        if bool((self.gates.gate_param < 1).any()):
            self.gates.set()
