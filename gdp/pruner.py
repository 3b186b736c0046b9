"""Pruner: the state of a pruning run and its two calls per training step. Usable from a plain PyTorch loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gdp.budget import allowance, check_reachable, check_target, select_channels
from gdp.errors import GDPError
from gdp.gates import insert_gates
from gdp.graph import ChannelGraph
from gdp.polarize import anneal, gate_gradient, move, sensitivity, settle

TOLERANCE = 0.01  # what remains lies in [target - TOLERANCE, target], if channels are small enough for that


@dataclass(frozen=True)
class Schedule:
    """When and how fast gates close. Times are fractions of the run.

    Attributes:
        start: where the window begins; until then gates only watch the gradients.
        end: where the window ends; the target holds from here on, and the rest of the run trains the small network.
        glide: steps a gate takes from open to closed; shorter if the window is short.
        eps: sharpness of the polar gate at the beginning and at the end of the window.
        memory: weight of the past in the running mean of squared gate gradients.
        watch: look at the gradients every so many steps.
    """

    start: float = 0.1
    end: float = 0.6
    glide: int = 50
    eps: tuple[float, float] = (0.1, 1e-4)
    memory: float = 0.95
    watch: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise GDPError(f"Expected 0 <= start < end <= 1 in the schedule, but got {self.start} and {self.end}.")
        if self.glide < 1 or self.watch < 1:
            raise GDPError(f"Expected glide and watch of at least 1 step, but got {self.glide} and {self.watch}.")
        if not 0 < self.eps[1] <= self.eps[0] or not 0 <= self.memory < 1:
            raise GDPError(
                f"Expected 0 < eps end <= eps start and memory in [0, 1), but got {self.eps}, {self.memory}."
            )


class Pruner:
    """Closes gates along a schedule until the FLOPs target is met.

    Call `watch()` after every backward pass, `step()` after every optimizer step, `finish()` after training.

    Args:
        model: the network; gates are inserted here.
        graph: what `trace` found in it.
        target_flops: fraction of the dense FLOPs that remains.
        total_steps: optimizer steps in the whole run; may be set later, but before the first `step()`.
        schedule: when and how fast.

    Raises:
        GDPError: the target is no fraction or out of reach, or nothing can be pruned.
    """

    CLOSED = 0.01  # a gate below this value is as good as closed

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        target_flops: float,
        total_steps: int = 0,
        schedule: Schedule | None = None,
    ) -> None:
        check_target(target_flops)
        check_reachable(graph, target_flops)
        self.graph = graph
        self.target_flops = target_flops
        self.total_steps = total_steps
        self.schedule = schedule or Schedule()
        self.gates = insert_gates(model, graph)
        self.gates.eps = self.schedule.eps[0]
        self.worth = torch.zeros_like(self.gates.raw)
        self.steps = 0
        self.done = False
        self.multiplier = 0.0
        self._keep: Tensor | None = None

    @property
    def window(self) -> tuple[int, int, int]:
        """First step of the window, the step from which the selection is fixed, and the step at which it ends."""
        start = max(1, round(self.schedule.start * self.total_steps))
        end = max(start + 1, round(self.schedule.end * self.total_steps))
        return start, end - self._glide(end - start), end

    def _glide(self, window: int) -> int:
        return max(1, min(self.schedule.glide, window // 4))

    @property
    def remaining(self) -> float:
        """Fraction of the dense FLOPs that the open gates cost now."""
        return self.graph.flops.count(self.gates.opened) / self.graph.flops.dense

    @torch.no_grad()
    def watch(self) -> None:
        """Read the gates' gradients from the weights' gradients, as they are reduced, accumulated and unscaled."""
        if self.done or self.steps % self.schedule.watch:
            return
        total: Tensor | None = None
        for reader in self.gates.readers:
            weight = reader.weight
            if weight.grad is None:
                continue
            if total is None:
                self._to(weight.device)
                total = torch.zeros(len(self.gates.raw) + 1, device=weight.device)
            gradient = gate_gradient(weight, weight.grad, reader.dim).float()
            total.index_add_(0, reader.index.to(weight.device), gradient)
        if total is not None:
            self.worth = sensitivity(self.worth, total[:-1], self.schedule.memory)

    def _to(self, device: torch.device) -> None:
        if self.worth.device != device:
            self.worth = self.worth.to(device)
            self.gates.to(device)

    @torch.no_grad()
    def step(self) -> None:
        """Move the gates; to be called once per optimizer step."""
        self.steps += 1
        start, fixed, end = self.window
        if self.done or self.steps < start:
            return
        gates = self.gates
        gates.eps = anneal(*self.schedule.eps, (self.steps - start) / (end - start))
        every = max(1, self.schedule.glide // 10)
        if self._keep is None or (self.steps <= fixed and (self.steps - start) % every == 0) or self.steps == fixed:
            self._select(allowance((self.steps - start + 1) / (fixed - start + 1), self.target_flops))
        if self.steps >= end:
            self._settle()
            return
        assert self._keep is not None
        keep = self._keep.to(gates.raw.device)
        factor = 1e-3 ** (
            1 / self._glide(end - start)
        )  # over a glide x falls from 1 to the value where the gate is shut
        gates.raw = move(gates.raw, keep, gates.eps, factor, self.CLOSED)
        gates.sync()

    @torch.no_grad()
    def finish(self) -> None:
        """Training is over: if it ended inside the window, close at once what the target asks for."""
        if not self.done:
            self._select(self.target_flops)
            self._settle()

    def _select(self, fraction: float) -> None:
        """Choose what fits into this fraction of the FLOPs now, keeping open a way to meet the target exactly later."""
        raw, flops = self.gates.raw.cpu(), self.graph.flops
        worth, alive, group_of = self.worth.cpu(), raw > 0, self.gates.group_of
        target = int(self.target_flops * flops.dense)
        slack = target - math.ceil((self.target_flops - TOLERANCE) * flops.dense)
        chosen = select_channels(worth, group_of, alive, flops, target, torch.ones_like(flops.sizes), slack)
        budget = int(fraction * flops.dense)
        if budget > target:
            chosen = select_channels(worth, group_of, alive, flops, budget, chosen.opened, budget)
        self._keep, self.multiplier = chosen.keep, chosen.multiplier

    def _settle(self) -> None:
        assert self._keep is not None
        self.gates.eps = self.schedule.eps[1]
        self.gates.raw = settle(self.gates.raw, self._keep.to(self.gates.raw.device), self.gates.eps)
        self.gates.sync()
        self.done = True

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs: tensors, numbers and bools."""
        return {
            "raw": self.gates.raw,
            "eps": self.gates.eps,
            "worth": self.worth,
            "steps": self.steps,
            "done": self.done,
            "multiplier": self.multiplier,
            "keep": self._keep,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; `resume()` lets the gates act.

        Raises:
            GDPError: it was taken with another network or other frozen parts.
        """
        if len(state["raw"]) != len(self.gates.raw):
            raise GDPError(
                f"The checkpoint has {len(state['raw'])} gates, but this network has {len(self.gates.raw)}: resume "
                "with the same network, `module` and `ignore` as the interrupted run."
            )
        device = self.gates.raw.device
        self.gates.raw, self.gates.eps = state["raw"].to(device), state["eps"]
        self.worth, self.steps, self.done = state["worth"].to(device), state["steps"], state["done"]
        self.multiplier = state["multiplier"]
        self._keep = None if state["keep"] is None else state["keep"].cpu()

    def resume(self) -> None:
        """Let loaded gates act, once the user's optimizers exist."""
        if bool((self.gates.raw < 1).any()):
            self.gates.sync()
