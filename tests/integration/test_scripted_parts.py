"""Parts that torch.jit has made lie in the LightningModule beside the network; they are left alone."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdp import GDPCallback

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore")


class Scaled(nn.Module):
    def forward(self, x):
        return x * 2 - 1


def features() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()


def scale(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def loaded(tmp_path, freeze: bool):
    scripted = torch.jit.script(features())
    (torch.jit.freeze(scripted) if freeze else scripted).save(tmp_path / "part.pt")
    return torch.jit.load(tmp_path / "part.pt").eval()


PARTS = {
    "scripted": lambda _: torch.jit.script(features()),
    "traced": lambda _: torch.jit.trace(features(), X[:1]),
    "loaded": lambda path: loaded(path, freeze=False),
    "loaded_frozen": lambda path: loaded(path, freeze=True),
    "without_weights": lambda _: torch.jit.script(Scaled()),
    "function": lambda _: torch.jit.script(scale),
    "in_a_list": lambda _: nn.ModuleList([torch.jit.script(features()), torch.jit.script(Scaled())]),
}


class Lit(pl.LightningModule):
    def __init__(self, part) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
        self.part = part
        for parameter in part.parameters() if isinstance(part, nn.Module) else ():
            parameter.requires_grad_(False)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, i):
        part = self.part[0] if isinstance(self.part, nn.ModuleList) else self.part
        return F.mse_loss(part(self.net(batch[0])), part(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 1e-2)


RUNS = [{"module": "net"}, {"shrink": "epoch"}, {"module": "net", "method": "annealed"}]


@pytest.mark.parametrize("options", RUNS, ids=["named", "found", "annealed"])
@pytest.mark.parametrize("kind", PARTS)
def test_a_part_beside_the_network_is_left_alone(kind, options, tmp_path):
    module = Lit(PARTS[kind](tmp_path))
    callback = GDPCallback(0.5, **options)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, callbacks=[callback], **quiet)
    trainer.fit(module, DataLoader(TensorDataset(X), 4))
    report = callback.report
    assert report is not None and report.remaining <= 0.5 and report.flops_after == report.flops_predicted
    assert module.net[0].weight.shape[0] < 16
