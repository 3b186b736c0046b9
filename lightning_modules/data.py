"""Provide data: digits that come with scikit-learn, CIFAR-10, and folders with one sub-folder per class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms as T
from torchvision.datasets import CIFAR10, ImageFolder

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Splits(pl.LightningDataModule):
    """Make loaders over the three data sets that `setup` provides.

    Args:
        batch_size: images per step and process.
        num_workers: processes that load images; 0: the training process does it.
    """

    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.batch_size, self.num_workers = batch_size, num_workers
        self.splits: dict[str, Dataset] = {}

    def _loader(self, split: str) -> DataLoader:
        train = split == "train"
        return DataLoader(
            self.splits[split],
            self.batch_size,
            shuffle=train,
            drop_last=train,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; the last one is left out if it is not full."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Return the batches to validate on."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Return the batches to test on."""
        return self._loader("test")


class _Augmented(Dataset):
    """Transform images at random, anew every time they are asked for.

    Args:
        images: shape (N, channels, height, width).
        labels: shape (N,).
        transform: of one image.
    """

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[i]), self.labels[i]


class DigitsData(_Splits):
    """Provide 1 797 digits of 8x8 pixels, shipped with scikit-learn: 1 078 to train on, 179 to validate, 540 to test.

    Args:
        batch_size: images per step and process.
        num_workers: processes that load images.
    """

    def __init__(self, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)

    def setup(self, stage: str) -> None:
        """Split the digits, always in the same way; training images are shifted by up to a pixel."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
        labels = torch.tensor(digits.target)
        rest, test = train_test_split(range(len(labels)), test_size=540, stratify=labels, random_state=0)
        train, val = train_test_split(rest, test_size=179, stratify=labels[rest], random_state=0)
        shift = T.RandomCrop(8, padding=1, fill=-1)
        self.splits = {
            "train": _Augmented(images[train], labels[train], shift),
            "val": TensorDataset(images[val], labels[val]),
            "test": TensorDataset(images[test], labels[test]),
        }


class ImageFolderData(_Splits):
    """Provide images from folders: `root/train/<class>/*` to train on, `root/val/<class>/*` to validate and test on.

    Without a `val` folder, every tenth training image is held out for validation; a `test` folder, if there is one, is
    what `test` uses.

    Args:
        root: folder with `train` and `val` or `test` inside.
        batch_size: images per step and process.
        num_workers: processes that decode images.
        size: side of the images the network sees; 32 means small images as they are, with shifts and flips.
        limit: train on so many images only.

    Raises:
        FileNotFoundError: when training begins, if the folders are not there.
    """

    def __init__(
        self, root: Path, batch_size: int = 128, num_workers: int = 4, size: int = 224, limit: int | None = None
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.root, self.size, self.limit = Path(root), size, limit

    def prepare_data(self) -> None:
        """Check that the folders are there."""
        if not (self.root / "train").is_dir() or not any((self.root / s).is_dir() for s in ("val", "test")):
            raise FileNotFoundError(
                f"Expected a folder with one sub-folder per class in {self.root}/train and {self.root}/val "
                "(or test), but did not find them."
            )

    def _transforms(self) -> tuple[Callable, Callable]:
        if self.size <= 64:
            augment = [T.RandomCrop(self.size, padding=self.size // 8), T.RandomHorizontalFlip()]
            fit: list = [T.Resize(self.size)]
            normal = [T.ToTensor(), T.Normalize(CIFAR_MEAN, CIFAR_STD)]
        else:
            augment = [T.RandomResizedCrop(self.size), T.RandomHorizontalFlip()]
            fit = [T.Resize(self.size * 8 // 7), T.CenterCrop(self.size)]
            normal = [T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        return T.Compose([*augment, *normal]), T.Compose([*fit, *normal])

    def _folders(self) -> dict[str, Dataset]:
        augmented, plain = self._transforms()
        train: Dataset = ImageFolder(self.root / "train", augmented)
        if (self.root / "val").is_dir():
            val: Dataset = ImageFolder(self.root / "val", plain)
        else:
            indices = range(len(ImageFolder(self.root / "train")))
            val = Subset(ImageFolder(self.root / "train", plain), indices[::10])
            train = Subset(train, [i for i in indices if i % 10])
        test = ImageFolder(self.root / "test", plain) if (self.root / "test").is_dir() else val
        return {"train": train, "val": val, "test": test}

    def setup(self, stage: str) -> None:
        """Find the images; with `limit`, the training images are always the same ones."""
        self.splits = self._folders()
        if self.limit is not None:
            chosen = torch.randperm(len(self.splits["train"]), generator=torch.Generator().manual_seed(0))
            self.splits["train"] = Subset(self.splits["train"], chosen[: self.limit].tolist())


class CIFAR10Data(ImageFolderData):
    """Provide CIFAR-10, as torchvision stores it (`cifar-10-batches-py`) or as folders of images; 5 000 validate.

    Args:
        root: folder that holds either.
        batch_size: images per step and process.
        num_workers: processes that decode images.
        size: side of the images the network sees.
        limit: train on so many images only.
    """

    def __init__(
        self, root: Path, batch_size: int = 128, num_workers: int = 2, size: int = 32, limit: int | None = None
    ) -> None:
        super().__init__(root, batch_size, num_workers, size, limit)

    @property
    def _original(self) -> bool:
        return (self.root / CIFAR10.base_folder).is_dir()

    def prepare_data(self) -> None:
        """Check that one of the two layouts is there."""
        if not self._original:
            super().prepare_data()

    def _folders(self) -> dict[str, Dataset]:
        if not self._original:
            return super()._folders()
        augmented, plain = self._transforms()
        train, val = (CIFAR10(self.root, train=True, transform=t) for t in (augmented, plain))
        indices = range(len(train))
        return {
            "train": Subset(train, [i for i in indices if i % 10]),
            "val": Subset(val, indices[::10]),
            "test": CIFAR10(self.root, train=False, transform=plain),
        }
