import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import Chain, Concat, Tied
from helpers.small_net import Net, prune
from torch import nn

import gdp
from gdp.gates import polar_gate
from gdp.surgery import fold

X = torch.randn(2, 3, 12, 12)


def gated(net: nn.Module, ignore=()):
    graph = gdp.trace(net, X, ignore, dry_run=False)
    return graph, gdp.insert_gates(net, graph)


def test_gating_the_weight_is_gating_the_input():
    layer = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, padding=1, stride=2))
    _, gates = gated(layer)
    gates.gate_param.uniform_(0.1, 1.0)
    gates.close("0", [1, 4])
    first, second = layer
    middle = first(X) * gates["0"].value.view(1, -1, 1, 1)
    expected = F.conv2d(middle, second._parameters["weight"], second.bias, stride=2, padding=1)
    assert gates["0"].value.min() == 0.0 and gates["0"].value.shape == (6,)
    torch.testing.assert_close(layer(X), expected, rtol=1e-5, atol=1e-6)


def test_inserting_gates_changes_nothing_the_user_can_see():
    net = Chain()
    before, plain = copy.deepcopy(net).eval(), net
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    gated(net)
    assert torch.equal(net.eval()(X), before(X))
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in before.named_parameters()]
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in plain.parameters()]
    assert type(net[1][0]) is nn.Conv2d and isinstance(net[1][0].weight, nn.Parameter)
    torch.optim.SGD([m.weight for m in net.modules() if isinstance(m, nn.Conv2d)], 0.1)
    assert set(net.state_dict()) - set(before.state_dict()) == {"1.0.weight_gdp_gate", "2.weight_gdp_gate"}


def test_the_polar_gate_is_that_of_gdp_up_to_a_constant():
    x = torch.linspace(0, 1, 101)
    for eps in (0.1, 1e-4):
        torch.testing.assert_close(polar_gate(x, eps), (1 + eps) * x**2 / (x**2 + eps))
        assert polar_gate(x, eps)[0] == 0.0 and polar_gate(x, eps)[-1] == 1.0
    slope = torch.func.grad(lambda v: polar_gate(v, 0.03))
    assert slope(torch.tensor(0.0)) == 0.0
    around = torch.vmap(slope)(torch.linspace(0.01, 0.99, 99))
    assert abs(int(around.argmax()) + 1 - 10) <= 1  # steepest at sqrt(eps / 3) = 0.1


def test_closed_channels_do_not_reach_the_output_and_get_no_gradient():
    net = Concat().eval()
    _, gates = gated(net)
    gates.close("up", [2])
    before = net(X)
    with torch.no_grad():
        net.up.weight[2] += 100
    assert torch.equal(net(X), before)
    net(X).sum().backward()
    assert net.d[0]._parameters["weight"].grad[:, [8, 18]].abs().max() == 0.0
    assert net.d[0]._parameters["weight"].grad[:, [7, 17]].abs().max() > 0.0


def test_tied_weights_are_folded_once():
    net = Tied().eval()
    _, gates = gated(net)
    gates.gate_param.fill_(0.3)
    gates.set()
    expected = net(X)
    fold(gates)
    assert net.a.weight is net.b.weight
    torch.testing.assert_close(net(X), expected, rtol=1e-5, atol=1e-6)


def test_fold_can_be_undone():
    net = Concat().eval()
    _, gates = gated(net)
    gates.gate_param.fill_(0.2)
    gates.set()
    expected, weight = net(X), net.up._parameters["weight"].data_ptr()
    undo = fold(gates)
    assert not any("gate" in k for k in net.state_dict()) and type(net.up) is nn.Conv2d
    undo()
    assert torch.equal(net(X), expected) and net.up._parameters["weight"].data_ptr() == weight


def test_misuse_is_refused():
    net = Chain()
    graph, gates = gated(net)
    with pytest.raises(gdp.GDPError, match="has gates already"):
        gdp.insert_gates(net, graph)
    with pytest.raises(gdp.GDPError, match=r"no gate 'nope'; the gates are: 0\.0, 1\.0"):
        gates["nope"]
    with pytest.raises(gdp.GDPError, match=r"in \[0, 7\], but got \[8\]"):
        gates.close("0.0", [8])
    with pytest.raises(gdp.GDPError, match="leave at least one"):
        gates.close("0.0", range(8))
    assert gates["0.0"].value.min() == 1.0
    wider = nn.Sequential(*Chain().children())
    wider[0] = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1), nn.BatchNorm2d(9), nn.ReLU())
    with pytest.raises(gdp.GDPError, match="trace the network again"):
        gdp.insert_gates(wider, graph)


def test_gates_work_in_double_and_bfloat16():
    for dtype in (torch.float64, torch.bfloat16):
        net = Chain().eval()
        _, gates = gated(net)
        net.to(dtype)
        gates.close("0.0", [0])
        assert net(X.to(dtype)).dtype == dtype and gates.gate_param.dtype == torch.float32


def test_a_users_own_gate_is_none_of_gdps():
    net = Net(lambda self, x: self.head(self.a(x) * self.input_gate))
    net.register_buffer("input_gate", torch.rand(8, 1, 1) + 0.5)
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["a.0"] and report.max_rel < 1e-5 and net.input_gate.shape == (4, 1, 1)


def test_gates_are_float32_under_any_default_type():
    torch.set_default_dtype(torch.bfloat16)
    try:
        net = Chain()
        gates = gdp.insert_gates(net, gdp.trace(net, X, dry_run=False))
    finally:
        torch.set_default_dtype(torch.float32)
    assert gates.gate_param.dtype == gates.readers[0].gate.dtype == torch.float32


def test_channels_can_be_closed_by_a_mask():
    net = Chain()
    gates = gdp.insert_gates(net, gdp.trace(net, X, dry_run=False))
    mask = torch.zeros(8, dtype=torch.bool)
    mask[[5, 6]] = True
    gates.close("0.0", mask)
    assert gates.closed == {"0.0": [5, 6]}


def test_weights_that_others_compute_with_stay_gated():
    class Shares(torch.nn.Module):
        """A layer, and somebody who computes with its weight."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(*sizes, 1) for sizes in ((3, 8), (8, 8), (8, 4)))

        def forward(self, x):
            x = self.a(x).relu()
            return self.c(self.b(x) + torch.nn.functional.conv2d(x, self.b.weight))

    net, x = Shares(), torch.randn(2, 3, 5, 5)
    graph = gdp.trace(net, x, dry_run=False)
    assert "c.weight" in graph.private_weights and "b.weight" not in graph.private_weights
    gates = gdp.insert_gates(net, graph)
    gates.close("a", [0, 3])
    before = net(x)
    assert not bool(net.b.weight[:, [0, 3]].any()) and bool(net.b._parameters["weight"][:, [0, 3]].any())
    gdp.remove(net, graph, gates)
    torch.testing.assert_close(net(x), before)


def test_what_a_layer_shows_is_a_matter_of_its_own_network():
    """While the hooks of one run have their turn, another network computes with its gates as ever."""
    pairs = []
    for _ in range(2):
        net = Chain()
        gates = gdp.insert_gates(net, gdp.trace(net, X, dry_run=False))
        gates.close("0.0", [0, 3])
        pairs.append((net[1][0], gates))
    (shown, its_gates), (other, _) = pairs
    its_gates.view.shows_parameter = True
    assert shown.weight is dict(shown.named_parameters())["weight"] and bool(shown.weight[:, [0, 3]].any())
    assert not isinstance(other.weight, torch.nn.Parameter) and not bool(other.weight[:, [0, 3]].any())
    its_gates.view.shows_parameter = False
    assert not bool(shown.weight[:, [0, 3]].any())
