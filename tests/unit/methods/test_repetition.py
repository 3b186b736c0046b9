"""Filters that repeat another one."""

from helpers.scores import chain, channels, cut, places, scores

from gdp.methods import Repetition

READER = [[1.0, 1.0, 1.0]]


def test_a_filter_counts_as_much_as_it_differs_from_larger_ones():
    # 3, 2 (cosine 0) and sqrt(2) (1 - sqrt(1/2)) = 0.41
    assert scores(Repetition(), channels(chain([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0]], READER))) == places([3, 1, 2])


def test_a_copy_goes_before_a_small_filter_whatever_its_sign_and_the_larger_of_the_two_stays():
    context = channels(chain([[2.5, 0.0], [-3.0, 0.0], [0.0, 1.0]], READER))
    assert scores(Repetition(), context) == places([1, 3, 2])  # 0, 3 and 1
    cut(context, "0", [1])
    assert scores(Repetition(), context) == places([2, 0, 1])  # 2.5 and 1


def test_of_two_equal_filters_one_stays():
    assert scores(Repetition(), channels(chain([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9]], READER))) == places([3, 1, 2])
