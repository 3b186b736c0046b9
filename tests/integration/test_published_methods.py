"""What holds for every method that has a name, in runs on digits."""

import pytest
import torch
from helpers.digits import LitDigits, fit_digits
from helpers.features import works
from helpers.training import two_processes
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision

import gdp

TARGET = 0.4


@pytest.mark.slow
@works("Methods", "every published method (`gdp.methods.names()`)", "target met exactly, resumed bit for bit")
@pytest.mark.parametrize("name", gdp.methods.names())
def test_a_run_meets_the_target_exactly_and_a_resumed_one_equals_it_bit_for_bit(name, tmp_path):
    pruning, save = gdp.GDPCallback(TARGET, method=name), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    lit = fit_digits(pruning, save, enable_checkpointing=True)
    report = pruning.report
    assert TARGET - 0.03 <= report.remaining <= TARGET and report.max_rel <= 1e-5
    assert gdp.utils.count_flops(lit.net, torch.zeros(1, 1, 8, 8)) == report.flops_after == report.flops_predicted
    assert not any("gdp" in key for key in lit.state_dict())

    # from inside the window, when some gates are on their way
    again = gdp.GDPCallback(TARGET, method=name)
    resumed = fit_digits(again, path=tmp_path / "epoch=1.ckpt")
    assert again.report.plan == report.plan
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in lit.state_dict().items())


@pytest.mark.slow
@works("Methods", "every published method with DDP", "all processes decide alike")
def test_two_processes_decide_alike_whatever_the_method(tmp_path):
    first, second = two_processes("ddp_methods_script.py", tmp_path)
    assert first.keys() == second.keys() == set(gdp.methods.names())
    for name, found in first.items():
        assert found["plan"] == second[name]["plan"], name
        assert found["weights"] == second[name]["weights"], name
        assert TARGET - 0.03 <= found["remaining"] <= TARGET, name


WITH_PENALTY = [n for n in gdp.methods.names() if gdp.methods.get(n).penalty is not gdp.PruningMethod.penalty]


class Written(LitDigits):
    """Adds the method's penalty to the loss in `training_step`, though not where that is tried."""

    def on_train_batch_start(self, batch, batch_idx):
        self.batch = batch

    def training_step(self, batch, batch_idx):
        if batch is not self.batch:
            raise RuntimeError("a trial")
        pruner, loss = self.trainer.callbacks[0].pruner, super().training_step(batch, batch_idx)
        if pruner.done:
            return loss
        penalty = gdp.methods.get(self.name)(**STRONG).penalty(pruner.method_state, pruner.context)
        return loss if penalty is None else loss + penalty


STRONG = {"start": 0.2, "end": 0.9}  # a window of which most lies in a run of eight steps


@pytest.mark.slow
@works("Methods", "penalties of methods", "equal to the same one in `training_step`, with accumulation and scalers")
@pytest.mark.parametrize("kind", ["accumulated", "scaled"])
@pytest.mark.parametrize("name", WITH_PENALTY)
def test_a_penalty_equals_the_same_one_in_training_step(name, kind):
    scaled = kind == "scaled"
    cls, kw = gdp.methods.get(name), {"epochs": 2} if scaled else {"epochs": 4, "accumulate_grad_batches": 3}
    silent = type(cls.__name__, (cls,), {"penalty": gdp.PruningMethod.penalty})
    ends = {}
    for way, method, make in (("gdp", cls, LitDigits), ("written", silent, Written), ("none", silent, LitDigits)):
        if scaled:
            kw["plugins"] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))]
        make.name = name
        lit = fit_digits(gdp.GDPCallback(0.4, method=method(**STRONG), shrink="end"), make=make, **kw)
        ends[way] = torch.cat([p.detach().flatten() for p in lit.parameters()])
    off = (ends["gdp"] - ends["written"]).abs().max()
    assert off <= (1e-3 if scaled else 1e-6)
    assert len(ends["none"]) != len(ends["gdp"]) or (ends["gdp"] - ends["none"]).abs().max() > 20 * off


def test_every_method_says_where_it_comes_from():
    for name in gdp.methods.names():
        text = gdp.methods.get(name).__doc__
        assert "Source:" in text or "Own:" in text, name
