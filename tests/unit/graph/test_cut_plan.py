"""Cut plans, one after the other."""

from helpers.networks import Chain, inputs

import gdp
from gdp.graph import CutPlan


def test_what_is_left_of_a_plan():
    net = Chain()
    graph = gdp.trace(net, inputs(net))
    first, both = CutPlan.of(graph, {"0.0": [0, 3]}), CutPlan.of(graph, {"0.0": [0, 3, 4], "1.0": [11]})
    rest = both.relative_to(first)
    assert rest.keep["1.0.weight"] == {1: (0, 1, 3, 4, 5), 0: tuple(range(11))}
    assert rest.shapes["1.0.weight"] == (12, 6, 3, 3) and rest.compose(first).keep == both.keep
