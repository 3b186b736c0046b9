"""Gates that let gradients through while they are closed: forward is as ever, backward as if they were open."""

import copy

import pytest
import torch
from helpers.networks import Tied
from torch import nn

import gdp
from gdp.gates import gate_gradients, gated_layers

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
VALUES = torch.tensor([0.0, 1.0, 0.5, 0.0, 0.25, 1.0])


class Convs(nn.Module):
    """A conv reads six channels; a linear layer reads six others, at four places each."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.pool = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(24, 5)

    def forward(self, x):
        return self.fc(self.pool(self.b(self.a(x))).flatten(1))


def gated(net, x=X):
    gates = gdp.insert_gates(net, gdp.trace(net, x, dry_run=False), lambda gate_param, temperature: gate_param)
    gates.set(VALUES.repeat(2)[: len(gates.gate_param)])
    return gates


def products_as_parameters(net):
    """A plain copy that computes with the products of weights and gates, which are its parameters."""
    plain, done = copy.deepcopy(net), set()
    for layer in plain.modules():
        for name in [n for n in layer._buffers if n.endswith("_gdp_gate")]:
            weight = layer._parameters[name.removesuffix("_gdp_gate")]
            if id(weight) not in done:
                weight.data *= layer._buffers[name].to(weight.dtype)
            done.add(id(weight))
            del layer._buffers[name]
        gated_layers.make_plain(layer)
    return plain


def compare(net, x, gates):
    plain = products_as_parameters(net)
    gates.view.straight_through = True
    assert torch.equal(net(x), plain(x))
    for model in (net, plain):
        model.zero_grad()
        model(x).float().square().mean().backward()
    for reader in gates.readers:
        twin = plain.get_parameter(next(n for n, p in net.named_parameters() if p is reader.weight))
        factor = torch.where(reader.gate == 0, 1.0, reader.gate).to(twin.dtype)
        torch.testing.assert_close(reader.weight.grad, twin.grad * factor)
        assert (reader.weight.grad * (reader.gate == 0)).any()


@pytest.mark.parametrize("recomputed", [0, 10**9])
@pytest.mark.parametrize("how", ["plain", "channels last", "bfloat16", "one sample"])
def test_gradients_are_those_of_the_product_times_the_gate_or_one_where_it_is_closed(how, recomputed, monkeypatch):
    monkeypatch.setattr(gated_layers, "RECOMPUTE_NUMEL", recomputed)
    torch.manual_seed(0)
    net, x = Convs(), X[:1] if how == "one sample" else X
    gates = gated(net)
    if how == "channels last":
        net, x = net.to(memory_format=torch.channels_last), X.to(memory_format=torch.channels_last)
    if how == "bfloat16":
        net, x = net.bfloat16(), X.bfloat16()
        gates.to_float32()
    compare(net, x, gates)


def test_weights_that_layers_share_are_let_through_to():
    torch.manual_seed(0)
    net = Tied().eval()
    compare(net, X, gated(net))


def test_without_it_closed_gates_have_no_gradient_and_with_it_the_loss_s_in_the_gate():
    torch.manual_seed(0)
    net = Convs()
    gates = gated(net)
    closed = gates.gate_param == 0
    net(X).square().mean().backward()
    assert not gate_gradients(gates)[closed].any()
    gates.view.straight_through = True
    net.zero_grad()
    net(X).square().mean().backward()
    found = gate_gradients(gates)
    for channel in torch.nonzero(closed).flatten().tolist():  # against finite differences
        losses = []
        for step in (1e-3, -1e-3):
            moved = gates.gate_param.clone()
            moved[channel] = step
            gates.set(moved)
            losses.append(net(X).double().square().mean().item())
        gates.set(torch.where(closed, 0.0, gates.gate_param))
        assert found[channel].item() == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=0.02, abs=1e-4)


@pytest.mark.slow
def test_a_compiled_network_lets_gradients_through_until_it_ends():
    torch.manual_seed(0)
    net = Convs()
    gates = gated(net)
    torch.compiler.reset()
    compiled, found = torch.compile(net, backend="aot_eager"), []
    for straight in (True, False):
        gates.view.straight_through = straight
        for model in (net, compiled):
            net.zero_grad()
            model(X).square().mean().backward()
            found.append([p.grad.clone() for p in net.parameters()])
    torch.compiler.reset()
    for eager, graph in (found[:2], found[2:]):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(eager, graph, strict=True))
    assert found[0][2][:, VALUES == 0].any() and not found[2][2][:, VALUES == 0].any()
