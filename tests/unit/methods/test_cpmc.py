"""Weights with those that read them, per FLOPs and parameters."""

import pytest
import torch
from helpers.scores import chain, channels, cut

import gdp
from gdp.methods import CPMC

FIRST, SECOND = [[1.0, -2.0], [2.0, 2.0], [-2.0, 0.0]], [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
LAST = [[1.0, -1.0], [1.0, 1.0]]
# written with 3, 4 and 2, read with 1 each: 4, 5 and 3; written with 2 and 1, read with 2 each: 4 and 3
RELATIVE = torch.tensor([1.0, 1.25, 0.75, 8 / 7, 6 / 7], dtype=torch.float64)
# 72 pixels; channels of the first group are written and read by 2 weights each, those of the second by 3 and 2
PARAMS = torch.tensor([4.0, 4.0, 4.0, 5.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize("a, b", [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.25, 0.5)])
def test_channels_are_compared_by_relative_norm_per_flops_and_parameters(a, b):
    context = channels(chain(FIRST, SECOND, LAST))
    assert context.marginal.tolist() == [288, 288, 288, 360, 360]
    found = CPMC(flops_power=a, params_power=b).importance({}, context)
    torch.testing.assert_close(found / context.marginal, RELATIVE / ((72 * PARAMS) ** a * PARAMS**b))


def test_after_a_cut_all_three_criteria_are_those_of_what_is_left():
    context = channels(chain(FIRST, SECOND, LAST))
    cut(context, "0", [1])
    # 3 + 1 and 2 + 1, of 4 weights; the second conv has lost one of 3 inputs: 1 + 2 twice, of 4 weights
    expected = torch.tensor([8 / 7, 0.0, 6 / 7, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(CPMC().importance({}, context) / context.marginal, expected / (72 * 16) ** 0.5)


@pytest.mark.parametrize("options", [{"flops_power": 1.1}, {"params_power": -0.1}])
def test_powers_out_of_range_are_refused(options):
    with pytest.raises(
        gdp.GDPError, match=rf"flops_power and params_power in \[0, 1\].*{next(iter(options.values()))}"
    ):
        CPMC(**options)
