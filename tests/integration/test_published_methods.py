"""What holds for every method that has a name, in runs on digits."""

import pytest
import torch
from helpers.digits import fit_digits
from helpers.training import two_processes
from pytorch_lightning.callbacks import ModelCheckpoint

import gdp

TARGET = 0.4


@pytest.mark.slow
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
def test_two_processes_decide_alike_whatever_the_method(tmp_path):
    first, second = two_processes("ddp_methods_script.py", tmp_path)
    assert first.keys() == second.keys() == set(gdp.methods.names())
    for name, found in first.items():
        assert found["plan"] == second[name]["plan"], name
        assert found["weights"] == second[name]["weights"], name
        assert TARGET - 0.03 <= found["remaining"] <= TARGET, name


def test_every_method_says_where_it_comes_from():
    for name in gdp.methods.names():
        text = gdp.methods.get(name).__doc__
        assert "Source:" in text or "Own:" in text, name
