"""The L2 norm of filters."""

from helpers.scores import Stream, chain, channels, cut, places, scores

from gdp.methods import L2


def test_channels_go_by_the_root_of_the_sum_of_squares():
    # norms 5, 13, 10
    assert scores(L2(), channels(chain([[3.0, -4.0], [5.0, 12.0], [6.0, 8.0]], [[1.0, 1.0, 1.0]]))) == places([1, 3, 2])


def test_all_writers_of_a_stream_count():
    # 9 + 1 and 4 + 9
    assert scores(L2(), channels(Stream())) == places([1, 2])


def test_after_a_cut_it_is_the_norm_of_what_is_left():
    context = channels(chain([[3.0, 4.0], [5.0, 0.0], [6.0, 8.0]], [[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]], [[1.0, 1.0]]))
    assert scores(L2(), context)[3:] == places([1, 2])  # 14 and 14: the first goes
    cut(context, "0", [2])
    assert scores(L2(), context) == places([1, 2, 0], [1, 2])  # 5 and 10
    context.gates.close("2", [1])
    assert scores(L2(), context) == places([1, 2, 0], [1, 0])
