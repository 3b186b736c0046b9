"""Deep copies of gated networks: their gates act, follow, and go with those of the network."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from helpers.networks import Chain, Residual, randomize
from helpers.pruned import X
from torch import nn

import gdp


class EMA:
    """An average of the state_dict, in a plain object."""

    def __init__(self, net: nn.Module, decay: float = 0.5) -> None:
        self.net, self.decay = copy.deepcopy(net).eval(), decay

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        now = net.state_dict()
        for name, value in self.net.state_dict().items():
            if value.dtype.is_floating_point:
                value *= self.decay
                value += (1 - self.decay) * now[name].detach()


class EMAOfParameters(EMA):
    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        for mine, now in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.mul_(self.decay).add_(now, alpha=1 - self.decay)


class EMAOfData(EMA):
    def update(self, net: nn.Module) -> None:
        for mine, now in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.data.mul_(self.decay).add_(now.data, alpha=1 - self.decay)


def gated(make=Chain):
    torch.manual_seed(0)
    net = randomize(make()).eval()
    graph = gdp.trace(net, X)
    return net, graph, gdp.insert_gates(net, graph)


def outputs(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net(X)


def move(gates, value: float) -> None:
    gates.set(torch.where(torch.arange(len(gates.gate_param)) % 2 == 0, value, 1.0))


def train(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.05)


def assert_plain(net: nn.Module) -> None:
    assert not any("gdp" in name for name in net.state_dict())
    assert not any("gdp" in type(m).__module__ or any("gdp" in key for key in vars(m)) for m in net.modules())


@pytest.mark.parametrize("make", [Chain, Residual])
def test_a_copy_that_was_made_before_gates_moved_acts_like_the_network(make):
    net, graph, gates = gated(make)
    dense = outputs(net)
    before, of_copy = copy.deepcopy(net), copy.deepcopy(copy.deepcopy(net))
    assert not any(type(m).__name__.startswith("Gated") for m in before.modules())
    move(gates, 0.5)
    inside = copy.deepcopy(net)
    assert any(type(m).__name__.startswith("Gated") for m in before.modules())
    torch.testing.assert_close(outputs(inside), outputs(net))
    torch.testing.assert_close(outputs(before), dense)  # it was left alone, and has the gates it was copied with
    expected = outputs(inside)
    move(gates, 0.0)
    gdp.remove(net, graph, gates)
    for one, wanted in ((before, dense), (of_copy, dense), (inside, expected)):
        assert_plain(one)
        torch.testing.assert_close(outputs(one), wanted)
        assert [p.shape for p in one.parameters()] == [p.shape for p in make().parameters()]


@pytest.mark.parametrize("kind", [EMA, EMAOfParameters, EMAOfData])
@pytest.mark.parametrize("first", ["average", "gates"])
@pytest.mark.parametrize("sparse", [False, True])
def test_an_average_has_the_gates_of_the_network_and_is_cut_like_it(kind, first, sparse):
    net, graph, gates = gated(Residual)
    ema = kind(net)
    for i, value in enumerate((0.9, 0.6, 0.3, 0.1, 0.0, 0.0)):
        train(net)
        if first == "gates":
            move(gates, value)
        if not sparse or i % 3 == 2:
            ema.update(net)
        if first == "average":
            move(gates, value)
    assert kind is EMAOfData or any(type(m).__name__.startswith("Gated") for m in ema.net.modules())
    report = gdp.remove(net, graph, gates)
    assert_plain(ema.net)
    expected = outputs(ema.net)
    small = gdp.cut_like(ema.net, net)
    assert small is ema.net and [p.shape for p in small.parameters()] == [p.shape for p in net.parameters()]
    torch.testing.assert_close(outputs(small), expected, rtol=1e-5, atol=1e-5)
    assert gdp.utils.count_flops(small, X) == report.flops_after


def test_a_copy_that_is_loaded_with_the_weights_of_a_moment_keeps_its_gates():
    net, graph, gates = gated()
    best = copy.deepcopy(net)
    for value in (0.8, 0.5, 0.2, 0.0):
        train(net)
        move(gates, value)
        if value == 0.5:
            best.load_state_dict(net.state_dict())
            expected = outputs(net)
    torch.testing.assert_close(outputs(best), expected)
    gdp.remove(net, graph, gates)
    torch.testing.assert_close(outputs(best), expected)
    assert_plain(best)


def test_a_copy_that_is_trained_keeps_its_gates():
    net, graph, gates = gated()
    peer = copy.deepcopy(net)
    optimizer = torch.optim.SGD(peer.parameters(), 0.01)
    for value in (0.5, 0.0):
        optimizer.zero_grad()
        peer(X).square().mean().backward()
        optimizer.step()
        move(gates, value)
    expected = outputs(peer)
    gdp.remove(net, graph, gates)
    torch.testing.assert_close(outputs(peer), expected)
    assert_plain(peer)


def test_copies_made_in_inference_mode_become_plain():
    net, graph, gates = gated()
    move(gates, 0.5)
    expected = outputs(net)
    with torch.inference_mode():
        best = copy.deepcopy(net)
    move(gates, 0.0)
    gdp.remove(net, graph, gates)
    torch.testing.assert_close(outputs(best), expected)
    assert_plain(best)


def test_gates_that_never_moved_go_from_copies_as_well():
    net, _, gates = gated()
    expected, mine = outputs(net), copy.deepcopy(net)
    gates.withdraw()
    assert_plain(mine)
    assert torch.equal(outputs(mine), expected)


def test_a_failed_removal_leaves_copies_gated():
    net, graph, gates = gated()
    move(gates, 0.5)
    mine, expected = copy.deepcopy(net), outputs(net)
    move(gates, 0.0)
    hook = net.register_forward_hook(lambda net, _, out: out + sum(p.numel() for p in net.parameters()))
    with pytest.raises(gdp.GDPError):
        gdp.remove(net, graph, gates)  # what it computes changes with its shapes
    hook.remove()
    assert any(type(m).__name__.startswith("Gated") for m in mine.modules())
    torch.testing.assert_close(outputs(mine), expected)
    gdp.remove(net, graph, gates)
    assert_plain(mine)
    torch.testing.assert_close(outputs(mine), expected)


def test_nobody_keeps_a_copy_or_the_network_of_a_copy_alive():
    net, _, gates = gated()
    move(gates, 0.5)
    thrown_away = weakref.ref(copy.deepcopy(net))
    gc.collect()
    assert thrown_away() is None
    mine, network = copy.deepcopy(net), weakref.ref(net)
    move(gates, 0.4)
    del net, gates
    gc.collect()
    assert network() is None
    expected = outputs(mine)
    torch.testing.assert_close(outputs(copy.deepcopy(mine)), expected)


@pytest.mark.parametrize("acting", [False, True])
def test_pickled_copies_know_nothing_of_the_gates(acting):
    net, _, gates = gated()
    if acting:
        move(gates, 0.5)
    expected = outputs(net)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False), copy.copy(net)):
        torch.testing.assert_close(outputs(other), expected)
    assert net.state_dict().keys() == {*Chain().state_dict(), *(n for n in net.state_dict() if "gdp_gate" in n)}


def test_tracked_copies_are_cut_along_and_no_deep_copies():
    net, graph, gates = gated()
    average = torch.optim.swa_utils.AveragedModel(net)
    gates.track_copy(average.module)
    move(gates, 0.0)
    gdp.remove(net, graph, gates)
    assert [p.shape for p in average.module.parameters()] == [p.shape for p in net.parameters()]
    torch.testing.assert_close(outputs(average.module), outputs(net), rtol=1e-5, atol=1e-5)
    assert_plain(average.module)
