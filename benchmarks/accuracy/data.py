"""CIFAR-10 as tensors: decoded once, scaled down if asked for, a part of the training images held out."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from lightning_modules.data import CIFAR_MEAN, CIFAR_STD

HELD_OUT = 5000  # training images that no method trains on; every choice of ours was made on them
BATCH = 128


class Images(Dataset):
    """Hold normalised images in memory, channels last.

    Args:
        images: shape (N, 3, side, side).
        labels: shape (N,), on the same device.
        augment: shift by up to an eighth of the side and flip, anew every time.
    """

    def __init__(self, images: Tensor, labels: Tensor, augment: bool = False) -> None:
        self.images, self.labels, self.augment = images, labels, augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch at once."""
        at = torch.tensor(indices, device=self.labels.device)
        x, y = self.images[at], self.labels[at]
        return (_augmented(x) if self.augment else x), y


def _augmented(x: Tensor) -> Tensor:
    count, _, side, _ = x.shape
    shift = side // 8
    padded = F.pad(x, (shift, shift, shift, shift))
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1))
    rows, columns = top + torch.arange(side), left + torch.arange(side)
    flip = torch.rand(count, 1) < 0.5
    columns = torch.where(flip, columns.flip(1), columns).to(x.device)
    rows, picture = rows.to(x.device), torch.arange(count, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def decoded(root: Path) -> dict[str, Tensor]:
    """Return all images as bytes, shape (60000, 3, 32, 32) in all; they are kept in a file beside the folders.

    Args:
        root: folder with train/<class>/ and test/<class>/ images, or with torchvision's cifar-10-batches-py.
    """
    cache = root / "decoded.pt"
    if not cache.exists():
        found = {}
        for split in ("train", "test"):
            if (root / CIFAR10.base_folder).is_dir():
                images: CIFAR10 | ImageFolder = CIFAR10(root, split == "train", pil_to_tensor)
            else:
                images = ImageFolder(str(root / split), pil_to_tensor)
            found[f"{split}_images"] = torch.stack([image for image, _ in images])
            found[f"{split}_labels"] = torch.tensor(images.targets)
        temporary = cache.with_suffix(f".{os.getpid()}")
        torch.save(found, temporary)
        temporary.replace(cache)  # at once, as other processes may read it
    return torch.load(cache, weights_only=True)


def load(root: Path, side: int, images: int) -> dict[str, Images]:
    """Return the images of "train", "val" and "test", on the GPU if there is one.

    Args:
        root: folder with train/<class>/ and test/<class>/ images, or with torchvision's cifar-10-batches-py.
        side: pixels that the images are scaled to.
        images: how many to train on; the first ones of a fixed order.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    raw = decoded(root)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR_MEAN, CIFAR_STD))

    def scaled(x: Tensor) -> Tensor:
        return F.interpolate((x.float() / 255 - mean) / std, size=(side, side), mode="area").contiguous(
            memory_format=torch.channels_last
        )

    order = torch.randperm(len(raw["train_labels"]), generator=torch.Generator().manual_seed(0))
    val, train = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + images]
    x, y = raw["train_images"], raw["train_labels"]
    return {
        "train": Images(scaled(x[train]).to(device), y[train].to(device), augment=True),
        "val": Images(scaled(x[val]).to(device), y[val].to(device)),
        "test": Images(scaled(raw["test_images"]).to(device), raw["test_labels"].to(device)),
    }


def _whole(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def loader(images: Images, train: bool) -> DataLoader:
    """Return a loader that makes batches in this process.

    Args:
        images: one of the sets that `load` returns.
        train: shuffle, and leave out the last batch if it is not full.
    """
    return DataLoader(images, BATCH if train else 1000, shuffle=train, drop_last=train, collate_fn=_whole)
