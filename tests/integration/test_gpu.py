"""What only a GPU can show; without one there is nothing to see here."""

import pytest
import torch
from helpers.features import unproved
from helpers.recorders import Gates
from helpers.training import Lit, loader
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from gdp import GDPCallback

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


@unproved("Precision", "`32-true`, `16-mixed` and `bf16-mixed` on a GPU", "the test waits for a machine with a GPU")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_training_and_resuming_on_a_gpu(tmp_path, precision, fused):
    class Fused(Lit):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, fused=fused)

    def fit(path=None):
        lit, pruning = Fused(), GDPCallback(0.5)
        gates, save = Gates(pruning), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        options = {"accelerator": "gpu", "devices": 1, "precision": precision, "max_epochs": 10}
        Trainer(**options, **QUIET, callbacks=[pruning, gates, save]).fit(lit, loader(), ckpt_path=path)
        assert 0.49 <= pruning.report.remaining <= 0.5 and gates.types == {torch.float32}
        assert all(value.device.type == "cuda" for value in gates.values)

    fit()
    fit(tmp_path / "epoch=3.ckpt")
