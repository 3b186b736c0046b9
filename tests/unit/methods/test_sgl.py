"""Sparse group lasso with l0, by variable splitting."""

from dataclasses import replace

import pytest
from helpers.scores import chain, channels, cut, near, penalty_and_gradients, scores

import gdp
from gdp.methods import SGL


def test_the_penalty_is_the_one_by_hand():
    method = SGL(strength=0.02, beta=(0.5, 8.0))
    context = channels(chain([[3.0, 4.0], [0.0, 0.1]], [[1.0, 1.0]]), steps=15)
    # half of the way to the window's end: beta 2, threshold sqrt(0.04 / 2) = 0.141421, below which 0.1 is
    # lasso 0.02 * sqrt(2) * (5 + 0.1) = 0.14425; distance 2 / 2 * 0.01
    penalty, gradients = penalty_and_gradients(method, context)
    assert penalty == 0.15425 and list(gradients) == ["0.weight"]
    # 0.02 * sqrt(2) * (3 / 5, 4 / 5), and 0.02 * sqrt(2) + 2 * 0.1
    assert near(gradients["0.weight"], [0.016971, 0.022627, 0.0, 0.228284])
    cut(context, "0", [1])
    assert penalty_and_gradients(method, context)[0] == 0.141421  # 0.02 * sqrt(2) * 5


def test_beta_grows_until_the_window_ends():
    context, found = channels(chain([[0.0, 0.1], [2.0, 0.0]], [[1.0, 1.0]])), []
    for steps in (0, 15, 30):
        distance = penalty_and_gradients(SGL(0.1, 0.6, strength=0.1, beta=(1.0, 16.0)), replace(context, steps=steps))[
            0
        ]
        found.append(round((distance - 0.1 * 2**0.5 * 2.1) / 0.005, 2))  # 0.1 is below the threshold, 2 is not
    assert found == [1.0, 4.0, 16.0]


def test_channels_are_compared_by_the_mean_of_their_weights():
    context = channels(chain([[3.0, -4.0], [0.0, 0.1]], [[1.0, 1.0]]))
    assert scores(SGL(), context) == [3.5, 0.05]
    cut(context, "0", [0])
    assert scores(SGL(), context) == [0.0, 0.05]


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"beta": (0.0, 1.0)}, {"beta": (2.0, 1.0)}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(gdp.GDPError, match="strength of at least 0 and 0 < beta start <= beta end"):
        SGL(**options)
