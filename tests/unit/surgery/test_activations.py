"""Activations that are compared are those of one pass."""

import pytest
from helpers.small_net import Net, X

import gdp
from gdp.graph import CutPlan
from gdp.surgery.activations import mean_activations
from gdp.utils import count_and_run, run_forward


@pytest.mark.parametrize(
    "numbers", [lambda y: (), lambda y: y.shape, lambda y: y.mean()], ids=["no", "sizes", "scalar"]
)
def test_counting_collects_what_a_plain_pass_collects(numbers):
    """Where numbers are among the outputs, the network runs once more after it has been counted."""

    def body(self, x):
        y = self.head(self.a(x))
        return y, numbers(y)

    net = Net(body)
    graph = gdp.trace(net, X)
    whole = CutPlan(graph.shapes, {})
    with mean_activations(net, graph, whole, whole) as of_count:
        count_and_run(net, X)
    with mean_activations(net, graph, whole, whole) as of_pass:
        run_forward(net, (X,))
    assert [name for name, _ in of_count] == [name for name, _ in of_pass] == ["head.weight"]
    assert not net._forward_pre_hooks
