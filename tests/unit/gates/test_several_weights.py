"""Several gated weights in one module: parameters of its own, lists of them."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import ListOfWeights, RawWeights, inputs
from torch import nn

import gdp
from gdp.gates import gate_gradients

several = pytest.mark.parametrize("make", [RawWeights, ListOfWeights])


def half_gated(make: type[nn.Module]) -> tuple[nn.Module, tuple[torch.Tensor, ...], gdp.gates.Gates]:
    torch.manual_seed(0)
    net = make().eval()
    x = inputs(net)
    gates = gdp.insert_gates(net, gdp.trace(net, x))
    gates.set(0.2 + 0.5 * torch.rand(len(gates.gate_param)), 0.3)
    return net, x, gates


def outputs(net: nn.Module, x) -> list[torch.Tensor]:
    out = net(*x)
    return list(out) if isinstance(out, tuple) else [out]


@several
def test_every_weight_has_its_gate_and_is_plain_again_afterwards(make):
    net, x, gates = half_gated(make)
    classes = {name: type(module) for name, module in make().named_modules()}
    gated = outputs(net, x)
    read = {axis.tensor for group in gates.graph.groups for axis in group.reads}
    assert len(gates.readers) == len(read) == (4 if make is RawWeights else 3)
    gates.withdraw()
    assert {name: type(module) for name, module in net.named_modules()} == classes
    assert not any(torch.equal(a, b) for a, b in zip(gated, outputs(net, x), strict=True))
    gates.restore()
    assert all(torch.equal(a, b) for a, b in zip(gated, outputs(net, x), strict=True))


@several
def test_copies_and_pickles_compute_with_all_gates(make):
    net, x, _ = half_gated(make)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), torch.load(file, weights_only=False)):
        assert all(torch.equal(a, b) for a, b in zip(outputs(net, x), outputs(other, x), strict=True))


@several
def test_the_gradient_of_every_gate_is_in_the_weights(make):
    """Against autograd on the gates themselves."""
    net, x, gates = half_gated(make)
    loss = sum(out.square().sum() for out in outputs(net, x))
    found = gate_gradients(gates, loss)
    values = gates.values.requires_grad_()
    everything = torch.cat([values, torch.ones(1)])[gates.index]
    weights = {}
    for reader, part in zip(gates.readers, everything.split([len(r.index) for r in gates.readers]), strict=True):
        name = next(n for n, p in net.named_parameters() if p is reader.weight)
        weights[name] = reader.weight.detach() * part.view(reader.gate.shape)
    gates.withdraw()
    out = torch.func.functional_call(net, weights, x)
    sum(o.square().sum() for o in (out if isinstance(out, tuple) else [out])).backward()
    torch.testing.assert_close(found, (values * values.grad).detach(), rtol=1e-3, atol=1e-3)


def test_a_layer_beside_a_parameter_of_the_same_module_is_gated_too():
    class Scaled(nn.Linear):
        """A linear layer with a second weight."""

        def __init__(self) -> None:
            super().__init__(8, 6)
            self.other = nn.Parameter(torch.randn(6, 8))

        def forward(self, x):
            return super().forward(x) + F.linear(x, self.other)

    net, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Scaled(), nn.ReLU(), nn.Linear(6, 3)), torch.randn(4, 5)
    graph = gdp.trace(net, x)
    assert {a.tensor for a in graph["0"].reads} == {"2.weight", "2.other"}
    gates = gdp.insert_gates(net, graph)
    gates.close_all({"0": [1, 5], "2": [0]})
    expected = net(x)
    report = gdp.remove(net, graph, gates)
    torch.testing.assert_close(net(x), expected)
    assert net[2].other.shape == net[2].weight.shape == (5, 6) and report.flops_after == report.flops_predicted
