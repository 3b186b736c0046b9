import copy
import logging

import pytest
import torch
from helpers.networks import DictOutput, Residual
from torch import nn

import gdp
from gdp.utils import count_flops

X = torch.randn(2, 3, 12, 12)


def test_counting_is_fvcores_eval_count_and_leaves_no_trace():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(800, 4)
    )
    net.train()
    state, rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert count_flops(net, X) == 2 * (8 * 27 * 100 + 2 * 800 + 800 * 4)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert net.training and net[1].training and torch.equal(torch.get_rng_state(), rng)


def test_outputs_in_a_dict_are_counted():
    assert count_flops(DictOutput(), X) == gdp.trace(DictOutput(), X).flops.dense


def test_a_failing_count_says_so_and_leaves_no_hooks():
    net = Residual()
    with pytest.raises(gdp.GDPError, match="fvcore can't count the FLOPs of Residual: RuntimeError"):
        count_flops(net, torch.randn(1, 4, 12, 12))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.fixture
def level():
    """Returns the level of the logger that gdp silences while it counts; it was 17 before."""
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    before = logger.level
    logger.setLevel(17)
    yield lambda: logger.level
    logger.setLevel(before)


def test_counting_leaves_the_level_of_fvcores_logger(level):
    count_flops(Residual(), X)
    assert level() == 17


def test_a_failing_count_leaves_the_level_of_fvcores_logger(level):
    with pytest.raises(gdp.GDPError, match="fvcore can't count"):
        count_flops(Residual(), torch.randn(1, 4, 12, 12))
    assert level() == 17


def test_a_check_leaves_the_level_of_fvcores_logger(level):
    gdp.check(Residual(), X)
    assert level() == 17
