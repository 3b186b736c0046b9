"""BWCP's activation probability, and its penalty."""

import pytest
import torch
from helpers.scores import NormedStream, chain, channels, cut, near, penalty_and_gradients, scores

import gdp
from gdp.methods import BWCP


def with_norms(gamma, beta):
    net = chain([[1.0, 0.0]] * len(gamma), [[1.0] * len(gamma)], norms=True)
    net[1].weight.data, net[1].bias.data = torch.tensor(gamma), torch.tensor(beta)
    return channels(net)


def test_the_score_is_the_probability_to_exceed_delta():
    # half; one deviation above; one below; certain, without a deviation
    context = with_norms([1.0, 0.5, -1.0, 0.0], [0.05, 0.55, -0.95, 1.0])
    assert scores(BWCP(), context) == [0.5, 0.8413, 0.1587, 1.0]
    cut(context, "0", [1])
    assert scores(BWCP(), context) == [0.5, 0.0, 0.1587, 1.0]


def test_the_penalty_is_the_one_by_hand():
    penalty, gradients = penalty_and_gradients(BWCP(l1=0.1, l2=0.3), with_norms([0.5, -1.0], [0.2, -0.4]))
    assert penalty == 0.09  # 0.1 * 1.5 - 0.3 * 0.2
    assert near(gradients["1.weight"], [0.1, -0.1]) and near(gradients["1.bias"], [0.3, 0.3]) and len(gradients) == 2


def test_the_mean_over_several_norms_counts():
    net = NormedStream()
    net.norm1.bias.data, net.norm2.bias.data = torch.tensor([0.05, 1.05]), torch.tensor([1.05, -0.95])
    assert scores(BWCP(), channels(net)) == [0.6707, 0.5]


def test_scales_may_have_rows_and_columns():
    context, cubic = with_norms([1.0, 0.5], [0.05, 0.55]), with_norms([1.0, 0.5], [0.05, 0.55])
    for parameter in (cubic.gates.model[1].weight, cubic.gates.model[1].bias):
        parameter.data = parameter.data[:, None, None]
    assert scores(BWCP(), cubic) == scores(BWCP(), context) == [0.5, 0.8413]
    method = BWCP(l1=0.1, l2=0.3)
    torch.testing.assert_close(method.penalty({}, cubic), method.penalty({}, context))


def test_negative_weights_are_refused():
    with pytest.raises(gdp.GDPError, match="l1 and l2 of at least 0"):
        BWCP(l2=-1.0)
