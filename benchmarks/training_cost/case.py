"""What is trained, for how long, and where; and its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from lightning_modules.data import CIFAR_MEAN, CIFAR_STD

CLASSES = 10
SIDE = 32  # images are cropped and flipped at this size, and scaled to what the network sees after that
PADDING = 4

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """Say what is trained, for how long, and where.

    Attributes:
        model: as `lightning_modules.classification.build` takes it.
        size: side of the images that the network sees.
        batch: images per step.
        epochs: of the whole run.
        images: to train on.
        target: fraction of the FLOPs that remains.
        lr: peak of the learning rate's cycle.
        tune_lr: peak of the cycle after Torch-Pruning has pruned.
        tp_steps: in which Torch-Pruning would take everything.
        device: "cpu" or "cuda".
        amp: bfloat16 autocast.
        channels_last: networks and images in this memory format.
    """

    model: str = "resnet20"
    size: int = 32
    batch: int = 128
    epochs: int = 30
    images: int = 4096
    target: float = 0.4
    lr: float = 0.1
    tune_lr: float = 0.1
    tp_steps: int = 200
    device: str = "cpu"
    amp: bool = False
    channels_last: bool = False

    @property
    def steps(self) -> int:
        """Return the steps per epoch; the last images that fill no batch are left out."""
        return self.images // self.batch

    @property
    def memory_format(self) -> torch.memory_format:
        """Return the memory format of networks and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def scaled(self, x: Tensor) -> Tensor:
        """Return images as the network sees them.

        Args:
            x: shape (N, 3, SIDE, SIDE).
        """
        if self.size != SIDE:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear")
        return x.to(memory_format=self.memory_format)

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.amp)


def load(root: Path, split: str, limit: int) -> Batch:
    """Decode images, chosen at random but always the same.

    Args:
        root: folder with train/<class>/ and test/<class>/ images.
        split: "train" or "test".
        limit: how many.

    Raises:
        ValueError: there are fewer.
    """
    folder = ImageFolder(root / split, T.Compose([T.Resize(SIDE), T.ToTensor(), T.Normalize(CIFAR_MEAN, CIFAR_STD)]))
    if limit > len(folder):
        raise ValueError(f"Expected at most the {len(folder)} images of '{split}', but got {limit}.")
    chosen = torch.randperm(len(folder), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    images, labels = zip(*(folder[i] for i in chosen), strict=True)
    return torch.stack(images), torch.tensor(labels)


def synthetic(limit: int) -> Batch:
    """Make images of noise, for what does not depend on them.

    Args:
        limit: how many.
    """
    random = torch.Generator().manual_seed(0)
    return torch.randn(limit, 3, SIDE, SIDE, generator=random), torch.randint(0, CLASSES, (limit,), generator=random)


def augmented(images: Batch, case: Case, seed: int, epoch: int) -> list[Batch]:
    """Return the batches of an epoch, cropped and flipped at random: the same for all ways.

    Args:
        images: to train on.
        case: decides batch, size and device.
        seed: of the run.
        epoch: counted from 0.
    """
    random = torch.Generator().manual_seed(1000 * seed + epoch)
    order = torch.randperm(case.images, generator=random)[: case.steps * case.batch]
    return [_crop_and_flip(images, chosen, case, random) for chosen in order.split(case.batch)]


def _crop_and_flip(images: Batch, chosen: Tensor, case: Case, random: torch.Generator) -> Batch:
    x, y = images[0][chosen], images[1][chosen]
    down, right = torch.randint(0, 2 * PADDING + 1, (2, len(x)), generator=random)
    windows = F.pad(x, (PADDING,) * 4).unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    x = windows[torch.arange(len(x)), :, down, right]
    flip = torch.rand(len(x), 1, 1, 1, generator=random) < 0.5
    return case.scaled(torch.where(flip, x.flip(3), x).to(case.device)), y.to(case.device)
