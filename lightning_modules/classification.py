"""Train a classifier: any torchvision classification model by name, or a ResNet for 32x32 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.resnet_cifar import resnet20, resnet56


def build(model: str, num_classes: int, channels: int = 3) -> nn.Module:
    """Make a network with random weights.

    Args:
        model: resnet20, resnet56, or the name of a torchvision classifier.
        num_classes: number of classes.
        channels: channels of the input images (resnet20 and resnet56 only).

    Raises:
        ValueError: there is no network of that name.

    >>> build("resnet20", 10).linear.out_features
    10
    """
    small = {"resnet20": resnet20, "resnet56": resnet56}
    if model in small:
        return small[model](num_classes, channels)
    if model not in torchvision.models.list_models(torchvision.models):
        raise ValueError(f"Expected `model` to be {', '.join(small)} or a torchvision classifier, but got {model!r}.")
    return torchvision.models.get_model(model, weights=None, num_classes=num_classes)


class Classification(pl.LightningModule):
    """Train by cross entropy, SGD with Nesterov momentum, and one cycle of the learning rate over the whole run.

    Args:
        model: resnet20, resnet56, or the name of a torchvision classifier.
        num_classes: number of classes.
        channels: channels of the input images (resnet20 and resnet56 only).
        weights: file with a state dict to start from.
        lr: peak of the learning rate.
        warmup: fraction of the run in which the learning rate rises.
        weight_decay: L2 penalty on all parameters.
        label_smoothing: of the cross entropy.

    Attributes:
        net: the network, shape (N, channels, height, width) to (N, num_classes).
        accuracy: top-1, of "val" and of "test".
    """

    def __init__(
        self,
        model: str = "resnet20",
        num_classes: int = 10,
        channels: int = 3,
        weights: Path | None = None,
        lr: float = 0.1,
        warmup: float = 0.2,
        weight_decay: float = 5e-4,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = build(model, num_classes, channels)
        if weights is not None:
            self.net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.accuracy = nn.ModuleDict({s: MulticlassAccuracy(num_classes, average="micro") for s in ("val", "test")})

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores of a batch of images."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it as "train/loss"."""
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("train/loss", loss)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        x, y = batch
        self.accuracy[stage](self(x), y)
        self.log(f"{stage}/accuracy", self.accuracy[stage], prog_bar=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to "val/accuracy"."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to "test/accuracy"."""
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer, and a scheduler that is stepped with it."""
        h = self.hparams
        optimizer = torch.optim.SGD(
            self.parameters(), lr=h["lr"], momentum=0.9, nesterov=True, weight_decay=h["weight_decay"]
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=h["lr"],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=h["warmup"],
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
