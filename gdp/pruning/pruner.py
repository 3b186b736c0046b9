"""Pruner: the state of a pruning run and its two calls per training step. Usable from a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.gates import gate_gradients, held_out_gradients, insert_gates
from gdp.graph import ChannelGraph, FlopModel
from gdp.methods import GateFamily, Moment, Polar, Window
from gdp.pruning.finite_guard import Vigil
from gdp.pruning.resume_check import refuse_other_run, restore, saved
from gdp.report import History
from gdp.selection import Widths, allowance, check_reachable, check_target, choose
from gdp.surgery import Undo, shrink
from gdp.utils import as_on_rank_zero

DENSE = 2.0  # a fraction of the FLOPs that allows everything


class Pruner:
    """Closes gates along a schedule until the FLOPs target is met.

    Call `watch()` after every backward pass, `step()` after every optimizer step, `finish()` after training; `shrink()`
    whenever the closed channels are to be cut, which makes the steps that follow cheaper; and, when `wants_held_out`,
    `learn(loss)` with the loss of a batch that the weights are not trained on. Gates hold still at steps whose loss or
    gradients are not finite, and until every gated weight is trained.

    Args:
        model: the network; gates are inserted here.
        graph: what `trace` found in it.
        target_flops: fraction of the dense FLOPs that remains.
        total_steps: optimizer steps in the whole run; may be set later, but before the first `step()`.
        gate: the kind of gates, with their options; when and how fast they close is among these.
        widths: which numbers of channels are legal; default: every one from 1 on.
        cost: what the budget counts; default: the FLOPs of `graph`. See `gdp.latency.latency_model`.

    Attributes:
        state: what the gates' family remembers; of polar gates the running mean of the squared gate gradient.
        steps: optimizer steps so far.
        keep: the channels that fitted into what was allowed when channels were last chosen; None before that.
        opened: open channels per group at that moment; reading gates more often would stall a GPU.
        multiplier: lambda in units of the average: a channel stays if its share of all worth is more than lambda times
            its share of all FLOPs.
        done: the window is over and the target holds.
        looked: the step at which channels were last chosen, or the temperature annealed.
        chosen_for: the fraction of FLOPs that was allowed then.
        opens: the window does not open before this step.
        watched: the step at which gradients were last read.

    Raises:
        GDPError: the target is no fraction or out of reach, or nothing can be pruned.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        target_flops: float,
        total_steps: int = 0,
        gate: GateFamily | None = None,
        widths: Widths | None = None,
        cost: FlopModel | None = None,
    ) -> None:
        check_target(target_flops)
        self.widths = widths or Widths.of(graph)
        self.cost = cost or graph.flops
        check_reachable(replace(graph, flops=self.cost), target_flops, self.widths)
        self.graph = graph
        self.target_flops = target_flops
        self.total_steps = total_steps
        self.family = gate or Polar()
        self.gates = insert_gates(model, graph, self.family.value, self.family.temperatures[0])
        self._untrained = [r.weight for r in self.gates.readers if not r.weight.requires_grad]
        self._vigil = Vigil()
        self._begin()

    def _begin(self) -> None:
        self.state, self.gates.history = self.family.begin(len(self.gates.raw)), History()
        self.opened = self.gates.opened
        self.steps, self.done, self.multiplier = 0, False, 0.0
        self.keep: Tensor | None = None
        self.looked, self.chosen_for, self.opens, self.watched = 0, DENSE, 0, -1

    @property
    def window(self) -> Window:
        """The steps at which the window begins and ends."""
        return self.family.window(self.total_steps, self.opens)

    @property
    def remaining(self) -> float:
        """Fraction of the dense FLOPs (or time) that the channels in `opened` cost."""
        return self.cost.count(self.opened) / self.cost.dense

    @property
    def allowed(self) -> float:
        """Fraction of the dense FLOPs (or time) that the schedule allows now."""
        return allowance(self.window.progress(self.steps), self.target_flops)

    def progress(self) -> dict[str, float]:
        """What is worth logging at every step."""
        return {
            "flops": self.remaining,
            "allowed": self.allowed,
            "open_channels": float(self.opened.sum()),
            "lambda": self.multiplier,
        }

    @torch.no_grad()
    def watch(self, loss: Tensor | None = None, scale: float = 1.0) -> None:
        """Read the gates' gradients from the weights' gradients, as they are reduced and accumulated.

        Args:
            loss: of this step; if it is not finite, gates hold still.
            scale: what the gradients are multiplied with (by a gradient scaler, before a fused optimizer).
        """
        if self.done:
            return
        if loss is not None:
            self._vigil.see(loss)
        if self.watched == self.steps or self.steps % self.family.watch:
            return
        gradient = gate_gradients(self.gates)
        if gradient is None:
            return
        self.watched = self.steps
        self._vigil.see(gradient)
        self.to(gradient.device)
        self.state = self.family.see(self.state, gradient / scale)

    @property
    def wants_held_out(self) -> bool:
        """Whether the gates are to learn from a batch that is held out now, after this step."""
        window, batches = self.window, self.family.batches
        inside = window.start <= self.steps < window.end and self.keep is not None and not self.done
        return batches is not None and inside and self.steps % batches.every == 0

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
            self.state, raw = self.family.learn(self.state, reduce(gradient), self.moment)
            self.gates.raw = as_on_rank_zero(raw)
            self.gates.sync()

    @property
    def moment(self) -> Moment:
        return Moment(self.gates, self.cost, self.allowed, self.window, self.keep)

    def to(self, device: torch.device) -> None:
        """Bring what is remembered to where the weights are."""
        self.state = {name: tensor.to(device) for name, tensor in self.state.items()}
        self.keep = None if self.keep is None else self.keep.to(device)

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
        if self._untrained:  # nothing is known about channels that only frozen weights read: the window opens later
            self._untrained = [weight for weight in self._untrained if not weight.requires_grad]
            self.opens = self.steps + 1 + min(self.family.glide, self.total_steps // 20)
        window = self.window
        if self.done or self.steps < window.start:
            self._vigil.forget()
            return
        sound = self._vigil.verdict(self.steps, self.gates.raw.device, skipped)
        if self.looked < window.latest_look(self.steps) or self.steps >= window.end:
            if bool(sound):
                self._look(window)
            self._vigil.warn()
        elif not skipped:
            self.gates.raw = torch.where(sound, self._moved(window), self.gates.raw)
            self.gates.sync()

    def _look(self, window: Window) -> None:
        """Choose channels, anneal the temperature and move; when the window ends, settle."""
        allowed = self.allowed
        if self.chosen_for > allowed:
            self._select(allowed)
        self.looked = self.steps
        if self.steps >= window.end:
            self._settle()
        else:
            progress = (self.steps - window.start) / (window.end - window.start)
            self.gates.temperature = self.family.temperature(progress)
            self.gates.raw = self._moved(window)
            self.gates.sync()
        self._record()

    def _record(self) -> None:
        gates = self.gates
        gates.history.record(self.steps, self.remaining, self.allowed, self.multiplier, gates.values, self.opened)

    def _moved(self, window: Window) -> Tensor:
        assert self.keep is not None
        return self.family.moved(self.gates.raw, self.keep, self.gates.temperature, window)

    @torch.no_grad()
    def finish(self) -> None:
        """Training is over: if it ended inside the window, close at once what the target asks for."""
        if not self.done:
            self._select(self.target_flops)
            self._settle()
            self._record()

    def shrink(self, optimizers: Iterable[Optimizer] = ()) -> Undo | None:
        """Cut the channels that are closed by now; return what puts them back, or None if there are none.

        Parameters keep their identity, and state of `optimizers` is cut along. DistributedDataParallel has to be built
        anew around the network afterwards; `GDPCallback` does it.

        Raises:
            GDPError: an optimizer's state can't be cut, or the cut is not exact; nothing is changed then.
        """
        return shrink(self.gates, optimizers)

    def _select(self, fraction: float) -> None:
        """Choose what fits into this fraction of the FLOPs now, keeping open a way to meet the target exactly later."""
        worth = self.family.worth(self.state, self.moment).cpu()
        group_of, alive = self.gates.group_of, self.gates.raw.cpu() > 0
        chosen = choose(worth, group_of, alive, self.cost, self.widths, self.target_flops, fraction)
        self.chosen_for = fraction
        self.keep = as_on_rank_zero(chosen.keep.to(self.gates.raw.device))
        self.multiplier = chosen.multiplier * self.cost.dense / max(float(worth[alive].sum()), 1e-30)
        self.opened = self.gates.opened

    def _settle(self) -> None:
        assert self.keep is not None
        self.gates.temperature = self.family.temperatures[1]
        self.gates.raw = self.family.settled(self.gates.raw, self.keep, self.gates.temperature)
        self.gates.sync()
        self.opened = self.gates.opened
        self.done = True

    def restart(self) -> None:
        """Begin a run anew on a network that an interrupted one has cut in part; what is open opens fully."""
        self.gates.raw = torch.where(self.gates.raw > 0, 1.0, 0.0)
        self.gates.temperature = self.family.temperatures[0]
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs: tensors, numbers and bools."""
        return saved(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; `resume()` lets the gates act.

        What was cut by then is cut now; load the network's and the optimizers' states after that.

        Raises:
            GDPError: it was taken with another network, other frozen parts or another target.
        """
        refuse_other_run(state, self.state_dict())
        restore(self, state)

    def resume(self) -> None:
        """Let loaded gates act, once the network is on its device and the user's optimizers exist.

        Their type is float32, whatever the network was converted to.
        """
        device = self.gates.readers[0].weight.device
        self.gates.to(device)
        self.gates.keep_float32()
        self.to(device)
        if bool((self.gates.raw < 1).any()):
            self.gates.sync()
