"""Cuts of modules registered twice, of tables that grow, under a graph that is alive."""

import pytest
import torch
from helpers.networks import Chain, Residual
from helpers.small_net import Net, X, prune
from helpers.training import small_net
from torch import nn

import gdp
from gdp.surgery import check_optimizers_cuttable


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda net, graph, gates: gates.close("0.0", [1.5]), "Expected channel indices of '0.0', or 8 bools"),
        (lambda net, graph, gates: gates.close("0.0", [True, False]), "Expected channel indices of '0.0', or 8 bools"),
        (lambda net, graph, gates: gdp.trace(net, X), "has gates already, probably from a run that was interrupted"),
        (
            lambda net, graph, gates: gdp.remove(net, graph.freeze(["0.0"], "late"), gates),
            "belong to another network or graph",
        ),
        (lambda net, graph, gates: gdp.remove(Chain(), graph, gates), "belong to another network or graph"),
        (lambda net, graph, gates: [gdp.remove(net, graph, gates) for _ in range(2)], "no longer in this Chain"),
        (lambda net, graph, gates: gdp.insert_gates(Residual(), graph), "but Residual has no such tensor"),
        (lambda net, graph, gates: gdp.trace(lambda x: x, X), "Expected a torch.nn.Module to trace, but got function"),
        (lambda net, graph, gates: gdp.trace(Chain(), X, ignore=[3]), r"to be a list of names.*\[3\]"),
    ],
)
def test_misuse_is_named(call, message):
    net = Chain()
    graph = gdp.trace(net, X)
    gates = gdp.insert_gates(net, graph)
    with pytest.raises(gdp.GDPError, match=message):
        call(net, graph, gates)


def test_a_module_registered_twice_keeps_its_weights():
    a = nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(a, a, nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["0", "2"] or [g.name for g in graph.groups] == ["2"]
    assert not any(t.is_meta for t in net.state_dict().values()) and report.max_rel < 1e-5


def test_a_table_that_grows_after_the_trace_is_no_obstacle():
    net = Net(lambda self, x: self.head(self.a(x) * self.table))
    net.register_buffer("table", torch.ones(1))
    graph = gdp.trace(net, X, dry_run=False)
    net.table = torch.linspace(0.5, 1.5, 12)
    gates = gdp.insert_gates(net, graph)
    gates.close("a.0", [1, 2])
    assert gdp.remove(net, gates.graph, gates).max_rel < 1e-5 and net.table.shape == (12,)


def test_a_loss_that_somebody_holds_is_no_obstacle():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    loss = net(X).sum()
    loss.backward()
    prune(net)
    net(X).sum().backward()
    assert net[0].weight.grad.shape == net[0].weight.shape and loss.grad_fn is not None


def test_state_that_lies_with_another_parameter_is_found():
    net = small_net()
    gates = gdp.insert_gates(net, gdp.trace(net, torch.randn(1, 3, 12, 12)))
    optimizer = torch.optim.LBFGS([net[-1].bias, *(p for p in net.parameters() if p is not net[-1].bias)], 0.1, 2)

    def closure():
        optimizer.zero_grad()
        loss = net(torch.randn(4, 3, 12, 12)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(gdp.GDPError, match="LBFGS keeps"):
        check_optimizers_cuttable(gates, [optimizer])
