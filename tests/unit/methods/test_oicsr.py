"""Out-in-channel groups: what writes a channel together with what reads it."""

import pytest
import torch
from helpers.scores import NormedStream, chain, channels, cut, near, penalty_and_gradients, scores

import gdp
from gdp.methods import OICSR


def test_the_group_lasso_is_over_writers_and_readers():
    context = channels(chain([[3.0, 4.0], [0.0, 1.0]], [[12.0, 2.0]]))
    # sqrt(9 + 16 + 144) = 13 and sqrt(1 + 4) = 2.236068
    penalty, gradients = penalty_and_gradients(OICSR(strength=0.1), context)
    assert penalty == 1.523607
    assert near(gradients["0.weight"], [0.3 / 13, 0.4 / 13, 0.0, 0.1 / 5**0.5])
    assert near(gradients["2.weight"], [1.2 / 13, 0.2 / 5**0.5])
    assert scores(OICSR(), context) == [169, 5]
    cut(context, "0", [1])
    assert scores(OICSR(), context) == [169, 0] and penalty_and_gradients(OICSR(strength=0.1), context)[0] == 1.3


def test_all_writers_and_readers_of_a_stream_are_in_the_group():
    net = NormedStream()
    for conv in (net.stem, net.branch, net.last):
        conv.weight.data.fill_(1.0)
    assert scores(OICSR(), channels(net)) == [7, 7]  # 2 + 2 weights write, 2 + 1 read


def test_a_channel_of_zeros_has_the_gradient_zero():
    context = channels(chain([[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]]))
    penalty, gradients = penalty_and_gradients(OICSR(strength=0.1), context)
    assert penalty == 0.1 and list(gradients) == ["0.weight"] and near(gradients["0.weight"], [0, 0, 0, 0.1])


def test_small_weights_in_half_precision_count():
    net = chain([[1e-4, 0.0], [0.0, 1.0]], [[0.0, 0.0]])
    context = channels(net)
    net.half()
    _, gradients = penalty_and_gradients(OICSR(), context)
    assert torch.allclose(gradients["0.weight"], torch.tensor([1e-4, 0, 0, 1e-4]).half(), rtol=0.01)


def test_a_negative_strength_is_refused():
    with pytest.raises(gdp.GDPError, match="at least 0, but got -1"):
        OICSR(strength=-1.0)
