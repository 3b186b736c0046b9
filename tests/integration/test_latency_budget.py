"""A run whose budget counts measured time."""

import pytest
import pytorch_lightning as pl
import torch
from helpers.slow_layer import WithSlow
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import gdp

pytestmark = pytest.mark.slow


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
