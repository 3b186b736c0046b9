"""Filters near the geometric median."""

import pytest
from helpers.scores import chain, channels, cut, places, scores

import gdp
from gdp.methods import FPGM

# on a line, at 0, 1, 5, 6 and 20: sums of distances 32, 29, 25, 26 and 68
LINE = [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [6.0, 0.0], [20.0, 0.0]]
READER = [[1.0] * 5, [2.0] * 5], [[1.0, 1.0]]


def test_channels_go_by_the_sum_of_distances_from_all_others():
    assert scores(FPGM(), channels(chain(LINE, *READER)))[:5] == places([4, 3, 1, 2, 5])


def test_without_those_that_are_cut_the_sums_are_others():
    context = channels(chain(LINE, *READER))
    cut(context, "0", [0])
    # 24, 20, 20 and 48, of which the first of two equal ones goes first
    assert scores(FPGM(), context)[:5] == places([0, 3, 1, 2, 4])


def test_a_closed_channel_counts_as_little_before_it_is_cut():
    context = channels(chain(LINE, *READER))
    context.gates.close("0", [4])
    # 12, 9, 9 and 12
    assert scores(FPGM(), context)[:5] == places([3, 1, 2, 4, 0])


def test_small_norms_go_before_distances_are_looked_at():
    context = channels(chain(LINE, *READER))
    # by norms 0 and 1; the other three by their distances from each other: 16, 15 and 29
    assert scores(FPGM(rate_norm=0.6), context)[:5] == places([1, 2, 4, 3, 5])
    cut(context, "0", [0])
    assert scores(FPGM(rate_norm=0.6), context)[:5] == places([0, 1, 3, 2, 4])
    cut(context, "0", [1])
    assert scores(FPGM(rate_norm=0.6), context)[:5] == places([0, 0, 2, 1, 3])


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(gdp.GDPError, match=rf"rate_norm in \(0, 1\], but got {rate}"):
        FPGM(rate_norm=rate)
