"""Training as all methods of the comparison do it: a Lightning run of so many steps, its FLOPs counted."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from benchmarks.accuracy.data import BATCH, Images, loader
from gdp.utils import count_flops
from lightning_modules.classification import Classification

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="pytorch_lightning")


@dataclass(frozen=True)
class Size:
    """Say how large a comparison is.

    Attributes:
        side: pixels of the images.
        images: to train on.
        epochs: of all phases of a method together.
        width: of VGG-16 and MobileNetV2.
        precision: as Lightning's Trainer takes it.
    """

    side: int
    images: int
    epochs: int
    width: float
    precision: str

    def steps(self, epochs: float) -> int:
        """Return the optimizer steps of so many epochs."""
        return round(epochs * (self.images // BATCH))


SIZES = {
    "smoke": Size(16, 20000, 6, 0.25, "bf16-mixed"),
    "cpu": Size(32, 45000, 30, 1.0, "bf16-mixed"),
    "gpu": Size(32, 45000, 120, 1.0, "bf16-mixed"),
}


class Classifier(Classification):
    """Train a given network, and count the FLOPs of its training steps (three forward passes each).

    Args:
        net: trained in place.
        lr: peak of the learning rate.

    Attributes:
        trained_flops: of all training steps so far, as fvcore counts them.
    """

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__(lr=lr)
        self.net = net
        self.trained_flops = 0
        self._known: tuple[int, int] = (0, 0)  # parameters and FLOPs of the network as it is now

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count anew once the network has another size; not in `training_step`, where methods look into passes."""
        size = sum(p.numel() for p in self.net.parameters())
        if size != self._known[0]:
            self._known = size, count_flops(self.net, batch[0][:1])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.trained_flops += 3 * len(batch[0]) * self._known[1]
        return super().training_step(batch, batch_idx)


def fit(
    net: nn.Module,
    data: dict[str, Images],
    size: Size,
    steps: int,
    lr: float,
    callbacks: Sequence[pl.Callback] = (),
    validate: bool = False,
) -> int:
    """Train for so many steps, one cycle of the learning rate, and return the FLOPs that took.

    Args:
        net: trained in place.
        data: what `benchmarks.accuracy.data.load` returns.
        size: precision of the run.
        steps: optimizer steps.
        lr: the highest learning rate.
        callbacks: of the method.
        validate: after every epoch.
    """
    module = Classifier(net.train(), lr)  # Lightning keeps the mode it finds
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        precision=size.precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1.0 if validate else 0,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(data["train"], True), loader(data["val"], False))
    return module.trained_flops


@torch.no_grad()
def accuracy(net: nn.Module, images: Images) -> float:
    """Return the top-1 accuracy in percent, in float32.

    Args:
        net: it is left in eval mode on the CPU, where Lightning leaves networks, too.
        images: on any device.
    """
    net.eval().to(images.labels.device)
    hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in loader(images, False))
    net.cpu()
    return 100 * hits / len(images)
