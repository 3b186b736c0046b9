"""Prune with Torch-Pruning as its users do: train, prune to the target, fine-tune with a new learning rate cycle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy.data import Images, loader
from benchmarks.common.peers import ignored_layers
from gdp.utils import count_flops

CLASSES = 10
ROUNDS = 10  # of pruning and measuring anew, where a method is iterative
BATCHES = 10  # over which Taylor importance is averaged in each of them
SMALL_STEPS = 100  # into which pruning is divided, to stop as close to the target as single steps allow


class Regularized(pl.Callback):
    """Train for sparsity: add the pruner's regularizer to the gradients, as Torch-Pruning documents it.

    Args:
        pruner: one of Torch-Pruning's with a regularizer.
    """

    def __init__(self, pruner: Any) -> None:
        self.pruner = pruner

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pruner.update_regularizer()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pruner.regularize(pl_module.net)


def _pruner(cls: Any, importance: Any, net: nn.Module, x: Tensor, whole: bool, **options: Any) -> Any:
    return cls(
        net, x, importance=importance, global_pruning=whole, pruning_ratio=1.0, max_pruning_ratio=0.97,
        iterative_steps=SMALL_STEPS, ignored_layers=ignored_layers(net, CLASSES), **options,
    )  # fmt: skip


def prune(net: nn.Module, pruner: Any, x: Tensor, flops: int) -> None:
    """Prune in small steps, group by group, until so many FLOPs are left.

    Args:
        net: cut in place.
        pruner: one of Torch-Pruning's, made for it.
        x: one image, by which FLOPs are counted.
        flops: that may be left.
    """
    net.eval()
    for _ in range(SMALL_STEPS):
        for group in pruner.step(interactive=True):
            if count_flops(net, x) <= flops:
                return
            group.prune()


def uniform_l2(net: nn.Module, x: Tensor, reg: float) -> Any:
    """Make a pruner that takes the same share of every layer, by magnitude."""
    return _pruner(tp.pruner.BasePruner, tp.importance.GroupMagnitudeImportance(p=2), net, x, False)


def taylor(net: nn.Module, x: Tensor, reg: float) -> Any:
    """Make a pruner that ranks all channels by Taylor importance."""
    return _pruner(tp.pruner.BasePruner, tp.importance.GroupTaylorImportance(), net, x, True)


def group_norm(net: nn.Module, x: Tensor, reg: float) -> Any:
    """Make a pruner that ranks all channels by magnitude, after training with a group lasso (arXiv 2301.12900)."""
    return _pruner(tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2), net, x, True, reg=reg)


def bn_scale(net: nn.Module, x: Tensor, reg: float) -> Any:
    """Make a pruner that ranks all channels by batch norm scales, after training with L1 on them (arXiv 1708.06519)."""
    return _pruner(tp.pruner.BNScalePruner, tp.importance.BNScaleImportance(), net, x, True, reg=reg)


# what is pruned by, and the strength of the regularizer while the dense network trains: the library's default
PEERS: dict[str, tuple[Callable[[nn.Module, Tensor, float], Any], float]] = {
    "TP uniform L2": (uniform_l2, 0.0),
    "TP global Taylor": (taylor, 0.0),
    "TP group norm": (group_norm, 1e-4),
    "TP BN scale": (bn_scale, 1e-5),
}


def cut(way: str, net: nn.Module, images: Images, flops: int) -> None:
    """Prune a trained network to so many FLOPs.

    Args:
        way: which of PEERS.
        net: cut in place.
        images: that Taylor importance is measured on.
        flops: that may be left.
    """
    make, reg = PEERS[way]
    x = images[0][0][None].cpu()
    pruner = make(net, x, reg)
    if way != "TP global Taylor":
        prune(net, pruner, x, flops)
        return
    dense = count_flops(net, x)
    for round_ in range(ROUNDS):
        net.eval()
        net.zero_grad()
        for _, (images_, labels) in zip(range(BATCHES), loader(images, True), strict=False):
            F.cross_entropy(net(images_.cpu()), labels.cpu()).backward()
        prune(net, pruner, x, round(dense - (dense - flops) * (round_ + 1) / ROUNDS))
    net.zero_grad(set_to_none=True)


def regularizer(way: str, net: nn.Module, images: Images) -> list[pl.Callback]:
    """Return the callbacks that the first phase of training needs.

    Args:
        way: which of PEERS.
        net: the network to be trained.
        images: one of them is the example that the pruner is made with.
    """
    make, reg = PEERS[way]
    return [Regularized(make(net, images[0][0][None].cpu(), reg))] if reg else []
