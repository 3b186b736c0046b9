"""A run whose budget counts measured time."""

import time

import pytest
import pytorch_lightning as pl
import torch
from helpers.networks import conv
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import gdp

pytestmark = pytest.mark.slow


class Slow(nn.Conv2d):
    """A conv that takes four milliseconds per 32 pairs of channels, whatever its FLOPs."""

    def forward(self, x):
        time.sleep(4e-3 * self.in_channels * self.out_channels / 32)
        return super().forward(x)


class WithSlow(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(conv(3, 16), conv(16, 16), Slow(16, 16, 1), nn.ReLU(), conv(16, 16), nn.Conv2d(16, 4, 1))


def test_a_run_meets_its_target_in_time_and_resumes_with_the_same_table(tmp_path):
    class LitSlow(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(*WithSlow(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def fit(resume=None):
        pl.seed_everything(0)
        lit, pruning = LitSlow(), gdp.GDPCallback(0.6, method=gdp.Polar(cost="latency"))
        save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        run = trainer(pruning, save, epochs=6, enable_checkpointing=True)
        run.fit(lit, loader(), ckpt_path=resume)
        assert 0.58 <= run.callback_metrics["gdp/flops"].item() <= 0.6
        return lit, pruning.report

    whole, report = fit()
    assert report.remaining > 0.6  # in FLOPs: the slow layer has few of them
    again, report_again = fit(next(tmp_path.glob("epoch=2*.ckpt")))
    assert report_again.plan == report.plan
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
