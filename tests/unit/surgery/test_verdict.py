"""One verdict before training and after it, also where a network can't be asked in float64."""

import pytest
import torch
from helpers.networks import randomize
from helpers.small_net import prune
from torch import nn

import gdp
from gdp.surgery.verdict import Compared, judge

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def wide(*, widths: tuple[int, int] = (64, 64)) -> nn.Sequential:
    a, b = widths
    convs = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, 8, 3, padding=1)
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])


class Rounds(nn.Module):
    """Float32 rounding in the outputs is above 1e-5 and below 1e-4, as a deep recurrent network adds it up."""

    def __init__(self) -> None:
        super().__init__()
        self.body = wide()

    def rounded(self, y):
        return (y + 400.0 * y.abs().max()) - 400.0 * y.abs().max()


class Table(Rounds):
    """A table that is no buffer has its own type: multiplication by it raises in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.eye(16)

    def forward(self, x):
        return self.rounded(self.body(x) @ self.table)


class Refuses(Rounds):
    """An error of its own."""

    def forward(self, x):
        if x.dtype != torch.float32:
            raise LookupError("float32 only")
        return self.rounded(self.body(x))


class Casts(Rounds):
    """Weights behind a cast: they raise in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.rounded(self.head(self.body(x).float()))


@pytest.mark.parametrize("make", [Table, Refuses, Casts])
def test_check_and_removal_agree_where_float64_can_not_be_asked(make):
    net = make()
    assert gdp.check(net, X).remaining < 0.1
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph, report = prune(net, X, share=0.4)
    assert len(graph.groups) == len(report.groups) >= 2
    assert report.max_rel <= 1e-4 and all(t.dtype == torch.float32 for t in net.state_dict().values())
    assert state.keys() == net.state_dict().keys()


@pytest.mark.parametrize("make", [Table, Refuses])
def test_a_wrong_cut_is_found_where_float64_can_not_be_asked(make):
    class Wrong(make):
        def forward(self, x):
            return super().forward(x) * (1 + 1e-2 * self.body[0].out_channels)

    graph = gdp.trace(randomize(Wrong()), X)
    assert "body.0" not in [g.name for g in graph.groups]
    assert "differs from the gated one" in graph.reasons()


@pytest.mark.parametrize("make", [Table, Refuses])
def test_weights_that_are_nan_are_no_obstacle_where_float64_can_not_be_asked(make):
    net = make()
    graph = gdp.trace(net, X)
    net.body[0].weight.data[30] = float("nan")
    net.body[4].weight.data[:] = float("inf")
    gates = gdp.insert_gates(net, graph)
    gates.close("body.0", range(20))
    report = gdp.remove(net, graph, gates)
    assert report.max_rel <= 1e-4 and report.flops_after == report.flops_predicted
    assert net.body[0].out_channels == 44 and bool(net.body[4].weight.isinf().all())


def test_a_forward_that_fails_before_the_cut_is_named_as_such():
    net = Refuses()
    graph = gdp.trace(net, X)
    gates = gdp.insert_gates(net, graph)
    gates.close("body.0", range(20))
    net.forward = lambda x: net.rounded(net.body(x).view(7, -1))
    with pytest.raises(gdp.GDPError, match="invalid for input of size"):
        gdp.remove(net, graph, gates)
    assert gates.inserted and net.body[0].out_channels == 64


def test_an_interruption_of_a_comparison_comes_through():
    net, calls = wide(), []

    def compare() -> Compared:
        calls.append(net[0].weight.dtype)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return Compared(([torch.ones(2)], [torch.zeros(2)]))

    with pytest.raises(KeyboardInterrupt):
        judge(net, compare)
    assert calls == [torch.float32, torch.float64] and net[0].weight.dtype == torch.float32
