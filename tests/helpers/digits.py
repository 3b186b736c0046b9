"""Digits of 8x8 pixels, a small residual network for them, and short runs that prune it."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from helpers.training import Lit, trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

IMAGES = 192
BATCH = 48


class Block(nn.Module):
    """Two convs with norms beside a shortcut."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class LitDigits(Lit):
    """A stream with two blocks, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU()
        self.net = nn.Sequential(
            *stem, Block(12, 16), Block(12, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
        )


def digits(shuffle: bool = False) -> DataLoader:
    found = load_digits()
    x = torch.tensor(found.images[:IMAGES], dtype=torch.float32)[:, None] / 8 - 1
    return DataLoader(TensorDataset(x, torch.tensor(found.target[:IMAGES])), BATCH, shuffle=shuffle)


def fit_digits(*callbacks, path=None, epochs: int = 6, make=LitDigits, **kw) -> LitDigits:
    """Train for 24 steps by default; the module is the same every time."""
    pl.seed_everything(0)
    lit = make()
    trainer(*callbacks, epochs=epochs, **kw).fit(lit, digits(), ckpt_path=path)
    return lit
