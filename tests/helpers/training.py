"""Small LightningModules and data for tests with real Trainers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.networks import conv
from helpers.paths import ENVIRONMENT, TESTS
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.models.resnet import BasicBlock


def images(n: int = 64) -> TensorDataset:
    """Images whose class is the quadrant that is bright."""
    random = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (n,), generator=random)
    x = torch.randn(n, 3, 12, 12, generator=random) * 0.5
    for i, k in enumerate(y.tolist()):
        x[i, :, 6 * (k // 2) : 6 * (k // 2) + 6, 6 * (k % 2) : 6 * (k % 2) + 6] += 1
    return TensorDataset(x, y)


def loader(n: int = 64, batch_size: int = 16, **kw) -> DataLoader:
    return DataLoader(images(n), batch_size, **kw)


def small_net(width: int = 8) -> nn.Sequential:
    stages = [conv(3, width), conv(width, 2 * width, stride=2), conv(2 * width, 2 * width)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 4))


class Lit(pl.LightningModule):
    """The usual form: one network in one attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.loss = small_net(), nn.CrossEntropyLoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)


class Direct(Lit):
    """Layers directly on the LightningModule, and an optimizer that is built from the layers' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = None
        self.stem, self.a, self.head = conv(3, 8), conv(8, 12), nn.Linear(12, 4)
        self.gain = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        return self.head(self.a(self.stem(x) * self.gain).mean((2, 3)))

    def configure_optimizers(self):
        layers = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
        groups = [{"params": [m.weight for m in layers]}, {"params": [m.bias for m in layers], "weight_decay": 0.0}]
        optimizer = torch.optim.SGD([*groups, {"params": [self.gain]}], 0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda s: 0.9**s] * 3)]


class Late(Lit):
    """The network is built in configure_model, and only training_step knows how to call it."""

    def __init__(self) -> None:
        pl.LightningModule.__init__(self)
        self.net, self.loss = None, nn.CrossEntropyLoss()

    def configure_model(self):
        if self.net is None:
            self.net = small_net()

    forward = pl.LightningModule.forward

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)

    validation_step = None


class Nested(Lit):
    """A backbone inside a network, with a head that gets its features."""

    def __init__(self) -> None:
        super().__init__()
        parts = list(small_net())
        self.net = nn.ModuleDict({"backbone": nn.Sequential(*parts[:-1]), "head": parts[-1]})

    def forward(self, x):
        return self.net["head"](self.net["backbone"](2 * x))


def trainer(*callbacks, epochs: int = 8, **kw) -> pl.Trainer:
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    return pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), accelerator="cpu", **(quiet | kw))


def two_processes(script: str, folder: Path, written: Sequence[str] = ("rank0.json", "rank1.json")) -> list[dict]:
    """Run a script, which starts a second process by itself, and return what the two of them have written."""
    command = [sys.executable, str(TESTS / "scripts" / script), str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / name).read_text()) for name in written]


class Stream(IterableDataset):
    """Batches without end, and without a length."""

    def __iter__(self):
        x, y = images(16).tensors
        while True:
            yield x, y


X = torch.randn(6, 3, 12, 12)


def outputs(lit, x=X):
    with torch.no_grad():
        return lit.eval()(x.to(next(lit.parameters()).dtype))


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return loader(batch_size=16, shuffle=True)


class LitWithBlocks(Lit):
    def __init__(self) -> None:
        super().__init__()
        blocks = [BasicBlock(8, 8) for _ in range(3)]
        self.net = nn.Sequential(conv(3, 8), *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


class LitWithAverage(Lit):
    """Two networks, one of them pruned, and an average of it."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.mean = small_net(4), AveragedModel(self.net)

    def on_train_batch_end(self, *_):
        self.mean.update_parameters(self.net)
