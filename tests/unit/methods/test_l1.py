"""The L1 norm of filters."""

from helpers.scores import chain, channels, cut, places, scores

from gdp.methods import L1, L2

# L1 norms 3, 4, 2 and 2, 1; L2 norms sqrt(5), sqrt(8), 2 and sqrt(2), 1
FIRST, SECOND = [[1.0, -2.0], [2.0, 2.0], [-2.0, 0.0]], [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
LAST = [[1.0, 1.0]]


def test_channels_go_by_the_sum_of_absolute_weights_the_same_fraction_of_every_group():
    assert scores(L1(), channels(chain(FIRST, SECOND, LAST))) == places([2, 3, 1], [2, 1])


def test_signs_do_not_cancel_out_and_large_single_weights_count_once():
    filters = [[1.0, 1.0], [0.0, 1.9], [-2.0, 0.5]]
    assert scores(L1(), channels(chain(filters, [[1.0, 1.0, 1.0]]))) == places([2, 1, 3])
    assert scores(L2(), channels(chain(filters, [[1.0, 1.0, 1.0]]))) == places([1, 2, 3])


def test_what_is_cut_no_longer_counts():
    context = channels(chain(FIRST, SECOND, LAST))
    cut(context, "0", [1])
    # the filters of the second conv have lost their second input: norms 1 and 1
    assert scores(L1(), context) == places([2, 0, 1], [1, 2])
