"""Cut plans, one after the other."""

from helpers.networks import Chain, inputs
from helpers.pruned import pruned
from torch import nn

import gdp
from gdp.graph import CutPlan


def test_what_is_left_of_a_plan():
    net = Chain()
    graph = gdp.trace(net, inputs(net), dry_run=False)
    first, both = CutPlan.of(graph, {"0.0": [0, 3]}), CutPlan.of(graph, {"0.0": [0, 3, 4], "1.0": [11]})
    rest = both.relative_to(first)
    assert rest.keep["1.0.weight"] == {1: (0, 1, 3, 4, 5), 0: tuple(range(11))}
    assert rest.shapes["1.0.weight"] == (12, 6, 3, 3) and rest.compose(first).keep == both.keep


def test_layers_that_are_added_or_replaced_between_two_cuts_are_dense_for_the_second():
    net = pruned(Chain())
    net[2] = nn.Conv2d(net[1][0].out_channels, 10, 3)  # in place of the head
    net.append(nn.Conv2d(10, 5, 1))
    net = pruned(net)
    plan = gdp.report.report_of(net).plan
    assert plan.shapes["0.0.weight"] == (8, 3, 3, 3) and plan.shapes["2.weight"] == (10, 6, 3, 3)
    assert plan.shape("2.weight") == tuple(net[2].weight.shape) and plan.shape("3.weight") == (5, 5, 1, 1)
    assert plan.shape("0.0.weight") == tuple(net[0][0].weight.shape)
