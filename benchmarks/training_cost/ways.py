"""Four ways to train one network: dense, gdp, gdp that cuts as it goes, Torch-Pruning's recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

import gdp
from benchmarks.common.peers import ignored_layers
from benchmarks.training_cost.case import CLASSES, Case


class Dense:
    """Train a network as it is, and say where the ways to prune it hook in.

    Args:
        net: trained in place.
        case: how it is trained.

    Attributes:
        pause: the step of the run that also makes the network smaller, within an epoch; 0 for none.
    """

    pause = 0

    def __init__(self, net: nn.Module, case: Case) -> None:
        self.net, self.case = net, case
        self.prepare(torch.randn(1, 3, case.size, case.size))
        self.net.to(case.device, memory_format=case.memory_format)
        self.start(case.lr, case.epochs)

    def start(self, lr: float, epochs: int) -> None:
        """Begin a phase of training: a new optimizer, one cycle of the learning rate.

        Args:
            lr: peak of the cycle.
            epochs: of the phase.
        """
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, lr, total_steps=epochs * self.case.steps, pct_start=0.2, cycle_momentum=False
        )

    def step(self, x: Tensor, y: Tensor) -> None:
        """Train on one batch.

        Args:
            x: images as the network sees them.
            y: labels.
        """
        with self.case.autocast():
            loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.after_backward()
        self.optimizer.step()
        self.scheduler.step()
        self.after_step()
        self.optimizer.zero_grad()

    def prepare(self, x: Tensor) -> None:
        """Get ready, before there is an optimizer.

        Args:
            x: an example input on the CPU.
        """

    def after_backward(self) -> None:
        """Look at the gradients."""

    def after_step(self) -> None:
        """Do what belongs between two steps."""

    def after_epoch(self, epochs: int) -> None:
        """Do what belongs between two epochs.

        Args:
            epochs: so far.
        """

    def finish(self) -> None:
        """Make the network what it is after training."""


class Gated(Dense):
    """Prune with gdp: what GDPCallback calls, in a plain loop.

    Args:
        net: trained and cut in place.
        case: how it is trained.
        shrink: cut closed channels after every epoch, and when the window ends.
    """

    def __init__(self, net: nn.Module, case: Case, shrink: bool) -> None:
        self.shrink = shrink
        super().__init__(net, case)

    def prepare(self, x: Tensor) -> None:
        graph = gdp.trace(self.net, x)
        self.pruner = gdp.Pruner(self.net, graph, self.case.target, self.case.epochs * self.case.steps)
        end = self.pruner.window.end
        self.pause = end if self.shrink and end % self.case.steps else 0

    def after_backward(self) -> None:
        self.pruner.watch()

    def after_step(self) -> None:
        self.pruner.step()
        if self.pruner.steps == self.pause:
            self.pruner.shrink([self.optimizer])

    def after_epoch(self, epochs: int) -> None:
        if self.shrink:
            self.pruner.shrink([self.optimizer])

    def finish(self) -> None:
        self.pruner.finish()
        gdp.remove(self.net, self.pruner.graph, self.pruner.gates, [self.optimizer])


class PrunedHalfway(Dense):
    """Prune with Torch-Pruning: train for half of the epochs, prune in small steps to the target, fine-tune."""

    def after_epoch(self, epochs: int) -> None:
        half = self.case.epochs // 2
        if epochs == half:
            self.net.eval()
            self._prune(torch.randn(1, 3, self.case.size, self.case.size, device=self.case.device))
            self.start(self.case.tune_lr, self.case.epochs - half)

    def _prune(self, x: Tensor) -> None:
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(
            self.net,
            x,
            importance,
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=self.case.tp_steps,
            ignored_layers=ignored_layers(self.net, CLASSES),
        )
        dense = tp.utils.count_ops_and_params(self.net, x)[0]
        while tp.utils.count_ops_and_params(self.net, x)[0] > self.case.target * dense:
            pruner.step()


WAYS: dict[str, Callable[[nn.Module, Case], Dense]] = {
    "dense": Dense,
    "gdp, cut at the end": partial(Gated, shrink=False),
    "gdp, cut every epoch": partial(Gated, shrink=True),
    "Torch-Pruning": PrunedHalfway,
}
